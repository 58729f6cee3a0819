"""Chapter 9: several catapults."""

import math

from ... import data, networks, tangent
from ...descent import gd
from ...problem import Fit
from . import exercise


@exercise("9.1")
def next_rate(multiple):
    if math.isclose(multiple, 3.75, rel_tol=1e-3):
        return True, "2.5 times from the kernel, 1.5 times from you."
    if math.isclose(multiple, 0.6, rel_tol=1e-3):
        return False, "That is below the first critical rate. η_crit is n over ‖K‖: when ‖K‖ falls, it rises."
    return (
        False,
        f"With {multiple:g} you are at {0.4 * multiple:.3g} times the critical rate of the moment, not at 1.5.",
    )


@exercise("9.2")
def the_brink(function):
    for edge, low, high in ((4.3, 1.0, 8.0), (1.07, 1.0, 3.0), (5.96, 4.0, 6.0)):
        calls = []

        def survives(f, edge=edge, calls=calls):
            calls.append(f)
            return f < edge

        found = function(survives, low, high)
        if not abs(found - edge) <= 0.05:
            return False, f"The brink is at {edge}, and you say {float(found):.3g}. Does the interval shrink to 0.05?"
        most = math.ceil(math.log2((high - low) / 0.05)) + 1
        if len(calls) > most:
            return False, f"Right, but after {len(calls)} runs; halving the interval takes {most} at most."
    return True, "A run a bit of the answer. How would you notice that there is more than one border?"


@exercise("9.3")
def the_ladder(function):
    images, labels = data.load("digits", n=100, classes=[3, 8])
    x = data.rotated(data.standardised(images))
    net = networks.fcn(x.shape[1], 512, 5)
    fit, theta = Fit(net, x, data.signs(labels)), networks.ntk(net, seed=1).float()
    first = tangent.critical_learning_rate(fit, tangent.kernel(fit, theta))
    run = gd(fit, theta, function(1.6 * first), 150)
    if run.stopped:
        return False, f"The run {run.stopped}. Was the last catapult over, and ‖K‖ out of its trough, at the raise?"
    thrown, before, high = 0, run.loss[0], 0.0
    for loss in run.loss:
        high = max(high, loss)
        if high > 1.2 * before and loss < 0.5 * before:
            thrown, before, high = thrown + 1, loss, 0.0
        elif high <= 1.2 * before:
            before = min(before, loss)
    if thrown < 3:
        return False, f"{thrown} catapults in 150 steps. Raise again once the loss is well below where it was."
    return True, f"{thrown} catapults, and η has risen {run.lr[-1] / run.lr[0]:.1f}-fold. When does it stop working?"
