"""Chapter 5: flatness and generalisation revisited."""

import math
from functools import cache

import numpy as np
import torch

from ... import data, networks
from ...curvature import spectrum
from ...descent import gd
from ...measure.directions import losses_along
from ...problem import Fit
from . import exercise


@exercise("5.1")
def two_shares(answer):
    way, loss = answer
    if math.isclose(way, 1e-4, rel_tol=0.02) and math.isclose(loss, 1 / 3, rel_tol=0.01):
        return True, "A ten-thousandth of the way, a third of the loss: sharp means that a short step goes far."
    if math.isclose(way, 1 / 3, rel_tol=0.01) and math.isclose(loss, 1e-4, rel_tol=0.02):
        return False, "The other way round: first the share of |d|², then the share of the loss."
    if math.isclose(way, 0.01 / 1.11, rel_tol=0.02):
        return False, "You took the share of the lengths; ask for squares, p_i²."
    if not math.isclose(way, 1e-4, rel_tol=0.02):
        return False, f"{way:.3g} is not the share of |d|². The squares are 0.0001, 0.01 and 1."
    return False, f"The first is right; {loss:.3g} is not the share of the loss. Weigh each p_i² with its λ_i."


@exercise("5.2")
def along_the_first(function):
    rng = np.random.default_rng(0)
    V = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    theta, d, goal = rng.normal(size=(3, 6))
    loss = lambda t: float((np.asarray(t) - goal) ** 2 @ np.arange(1, 7))  # noqa: E731
    for i in (0, 3, 6):
        found, right = float(function(loss, theta, d, V, i)), losses_along(loss, theta, d, V, [i])[0]
        if math.isclose(found, right, rel_tol=1e-9):
            continue
        one, rows = V[:, i - 1], V[:i]
        slips = {
            "That is direction i alone; L(i) sums over all j ≤ i.": loss(theta + one * (one @ d)),
            "Add the projection to θ; you evaluated the projection alone.": loss(V[:, :i] @ V[:, :i].T @ d),
            "The eigenvectors are the columns of V, not its rows.": loss(theta + rows.T @ (rows @ d)),
        }
        hint = next((h for h, v in slips.items() if math.isclose(found, v, rel_tol=1e-9)), "L(0) is the loss at θ.")
        return False, f"For i = {i} it returns {found:.4g}, not {right:.4g}. {hint}"
    return True, "L(0) is the loss at θ, and the complete basis goes all the way to θ + d."


@cache
def _seed_0():
    """The chapter's net, its θ_train of seed 0, and the directions there."""
    net = networks.TwoLayer(100)
    train = Fit(net, *data.grid("tanh(x-6) + tanh(x+6)", -12, 12, 15))
    theta = gd(train, networks.normal(net, gamma=0.4, seed=0), 0.005, 300_000).theta
    return net, theta, spectrum(train, theta).vectors[:, :3]


@exercise("5.3")
def sharp_directions_matter(function):
    net, theta, vectors = _seed_0()
    x, y = data.grid("tanh(x-6) + tanh(x+6)", -12 + 6 / 7, 12 - 6 / 7, 14)
    wave = np.asarray(function(x), dtype=float) + np.zeros_like(x)
    if wave.shape != x.shape or not np.isfinite(wave).all():
        return False, f"Return 14 finite numbers, one a test point; you returned shape {wave.shape}."
    if abs(wave).max() > 0.5 + 1e-9:
        return False, f"Your wave reaches {abs(wave).max():.2f}; it may be 0.5 at most. Make it smaller everywhere."
    test = Fit(net, x, torch.from_numpy(y + wave))
    after = gd(test, theta, 0.001, 300_000).theta
    before, then = losses_along(test.loss, theta, after - theta, vectors, [0, 3])
    said = f"L(3) is {then / before:.2f} of L(0)."
    if then < 0.6 * before:
        return True, f"{said} The test set now differs from the training set in what the sharp directions can move."
    return False, f"{said} Compare your wave with the first three panels: do those shapes, added up, look like it?"
