"""Chapter 10: SGD, where every batch has its own critical rate."""

import math

import numpy as np
import torch

from ... import data, networks, tangent
from ...descent import on_batch, sgd
from ...problem import Fit
from . import exercise


@exercise("10.1")
def rate_of_a_block(rate):
    if math.isclose(rate, 1 / 3, rel_tol=1e-6):
        return True, "Lower than that of the set: the same norm, shared by fewer points."
    if math.isclose(rate, 1 / 2, rel_tol=1e-6):
        return False, "That is the critical rate of the whole set. How many points has the batch?"
    return (
        False,
        f"With {rate:g} a step would multiply the residual along (1, 1) by {1 - 6 * rate:.3g}; look at the block.",
    )


def _digits(width=128):
    images, labels = data.load("digits", 128, [3, 8])
    x = ((images - images.mean()) / images.std()).flatten(1).double()
    fit = Fit(networks.fcn(x.shape[1], width, 3), x, data.signs(labels).double())
    return fit, networks.ntk(fit.model, seed=1)


@exercise("10.2")
def whether_it_rises(function):
    K, r = torch.diag(torch.tensor([4.0, 1.0])), torch.tensor([0.0, 1.0])
    if function(K, r, 0.6):
        return False, "η is over b/‖K‖ = 0.5, but r has no part along the top direction: look at what becomes of r."
    if not function(K, torch.tensor([1.0, 0.0]), 0.6) or function(K, r, 0.4):
        return False, "Two points, K = diag(4, 1): with r = (1, 0) and η = 0.6 the loss rises, with η = 0.4 it falls."
    fit, start = _digits()
    rate = 1.3 * tangent.critical_learning_rate(fit, tangent.kernel(fit, start))

    def before(fit, theta, batch):
        part = fit.batch(batch)
        return [part.loss(theta).item(), bool(function(tangent.kernel(part, theta), part.residuals(theta), rate))]

    def after(fit, theta, batch):
        return fit.batch(batch).loss(theta).item()

    run = sgd(fit, start, rate, 40, 8, {"before": on_batch(before), "after": on_batch(after, after=True)}, seed=1)
    (loss, said), rose = run["before"].values.T, run["after"].values
    right = np.mean(said == (rose > loss))
    if right < 0.9:
        return (
            False,
            f"Along SGD on digits it is right at {right:.0%} of the steps. Compare |r| before and after the step.",
        )
    return (
        True,
        f"Right at {right:.0%} of the steps of SGD on digits, of which {np.mean(rose > loss):.0%} raise the loss.",
    )


@exercise("10.3")
def a_calm_cut(function):
    fit, start = _digits()
    K, b = tangent.kernel(fit, start), 16

    def lowest(batches):
        return tangent.batch_critical_learning_rates(fit, K, batches).min()

    batches = np.asarray(function(K.clone(), b))
    if batches.shape != (8, 16) or sorted(batches.ravel().tolist()) != list(range(128)):
        return (
            False,
            f"128 points in batches of 16 are an array of shape (8, 16) with each point once, not {batches.shape}.",
        )
    random = [lowest(np.random.default_rng(k).permutation(128).reshape(-1, b)) for k in range(20)]
    whole = tangent.critical_learning_rate(fit, K)
    mine, best = lowest(batches) / whole, max(random) / whole
    said = f"The lowest rate is {mine:.2f} η_crit; the best of twenty random cuts has {best:.2f}"
    if mine <= best:
        return False, f"{said}. Which points have a large part in the top eigenvector of K?"
    return True, f"{said}. The whole set has 1."
