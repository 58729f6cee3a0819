"""Chapter 13: batch size and optimizers."""

import math

import numpy as np
import torch

from . import exercise


@exercise("13.1")
def same_noise(multiple):
    if math.isclose(multiple, 0.2, rel_tol=1e-3):
        return True, "The same η/b. By the cap of the page batches of 2 got more than that, and a lower test loss."
    if math.isclose(multiple, 1.25, rel_tol=1e-3):
        return False, "That multiplies η by what b was divided by. Which of the two keeps η/b as it was?"
    return False, f"With {multiple:g} the ratio η/b is {multiple / 2:.3g} η_crit; with batches of 5 it was 0.1 η_crit."


@exercise("13.2")
def the_cap(function):
    draw = torch.Generator().manual_seed(3)
    for b, eta in ((1, 3.0), (5, 2.8), (5, 0.01), (8, 50.0)):
        J = torch.randn(b, 40, generator=draw, dtype=torch.float64)
        K = J @ J.T
        limit = b / np.linalg.eigvalsh(K.numpy())[-1]
        found, right = float(function(K, eta)), min(eta, 0.95 * limit)
        if not math.isclose(found, right, rel_tol=1e-6):
            return False, (
                f"A batch of {b} with the critical rate {limit:.4g} and η = {eta:g} should get {right:.4g}, not"
                f" {found:.4g}. Is the b in, and is η kept where it is low enough?"
            )
    return True, "With this one line a run has no catapult as the source counts them."


@exercise("13.3")
def permutations_test(function):
    rng = np.random.default_rng(1)
    cases = [
        (np.arange(4.0), -np.arange(4.0), 1 / 24, "a perfect line that falls"),
        (np.arange(4.0), np.arange(4.0), 1.0, "a perfect line that rises"),
    ]
    loss = rng.standard_normal(5)
    align = -loss + rng.standard_normal(5)
    cases.append((loss, align, _by_hand(loss, align), "five points with some noise"))
    for loss, align, right, what in cases:
        found = float(function(loss, align))
        if not math.isclose(found, right, abs_tol=1e-9):
            return (
                False,
                f"For {what} the share is {right:.4f}, and you say {found:.4f}. Count r at most the given one.",
            )
    return True, "For seven points the least value there can be is 1 in 5,040. What does it say about the cause?"


def _by_hand(loss, align):
    from itertools import permutations

    given = np.corrcoef(loss, align)[0, 1]
    return float(np.mean([np.corrcoef(loss, order)[0, 1] <= given + 1e-9 for order in permutations(align)]))
