"""Chapter 8: the tangent kernel and the catapult."""

import math

import numpy as np

from ... import data, networks, tangent
from ...descent import gd
from ...problem import Fit
from . import exercise


@exercise("8.1")
def other_prefactor(eta):
    if math.isclose(eta, 20, rel_tol=1e-6):
        return True, "Half the loss, half the gradient, twice the rate: the same steps."
    if math.isclose(eta, 10, rel_tol=1e-6):
        return False, "That is n/‖K‖, for (1/n)Σr². Which factor stands before K in the residual's step here?"
    return False, f"With η = {eta:g} the factor of the top direction is {1 - eta * 12.8 / 128:.3g}; where is it -1?"


@exercise("8.2")
def one_example(function):
    rng = np.random.default_rng(0)
    for m in (5, 40, 300):
        a, w = rng.standard_normal((2, m))
        y, eta = rng.standard_normal(), rng.uniform(0.1, 1.2)
        f, K = a @ w / m**0.5, (a @ a + w @ w) / m
        change = 2 * eta * (f - y) / m**0.5
        a, w = a - change * w, w - change * a
        after = a @ w / m**0.5, (a @ a + w @ w) / m
        found = tuple(float(v) for v in function(f, K, y, eta, m))
        for name, ours, theirs in zip("fK", after, found, strict=True):
            if not math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-12):
                zero = (
                    " With y = 0 it is the page's step: is every f there that should be f - y?" if name == "f" else ""
                )
                return False, f"With m = {m} neurons {name} becomes {ours:.6g}, yours {theirs:.6g}.{zero}"
    return True, "Two numbers are all there is to know of this net. Near a fit, r = 0, K no longer moves."


@exercise("8.3")
def warm_up(function):
    images, labels = data.load("digits", 128, [3, 8])
    x, y = data.rotated(data.standardised(images)), data.signs(labels)
    net = networks.fcn(x.shape[1], 256, 5)
    fit, theta = Fit(net, x, y), networks.ntk(net, seed=2).float()
    target = 6 * tangent.critical_learning_rate(fit, tangent.kernel(fit, theta))
    run = gd(fit, theta, function(target), 100)
    if run.stopped:
        return False, f"The run {run.stopped}. How far is each rate above n/‖K‖ at its step?"
    used = run.lr[-20:] / target
    if used.min() < 0.99 or used.max() > 1.01:
        return False, (
            f"In the last 20 steps the rate lies between {used.min():.2f} and {used.max():.2f} of the target. "
            "Below n/‖K‖ the kernel norm does not fall, and the target stays out of reach: go above it for a while."
        )
    if run.loss[-1] > 0.1 * run.loss[0]:
        return False, f"The loss ends at {run.loss[-1]:.3g}, above a tenth of its start. Does a spike come late?"
    return True, f"At the target, loss {run.loss[-1]:.1e}; on the way it rose to {run.loss.max():.1f}."
