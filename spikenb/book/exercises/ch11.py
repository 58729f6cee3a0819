"""Chapter 11: the average gradient outer product."""

import numpy as np
import torch

from ... import agop, data
from . import exercise


@exercise("11.1")
def the_diagonal(diagonal):
    first, second = (float(v) for v in diagonal)
    if np.allclose((first, second), (4, 3), rtol=1e-3):
        return True, "Though x2 alone sets the sign of f, x1 has the larger entry: the AGOP weighs by squared slopes."
    if np.isclose(first, 4, rtol=1e-3):
        return False, "The first is right. The second is the mean of x1 to the fourth, not the square of E[x1²] = 1."
    return False, "G_11 is the mean of (2·x1·x2)², G_22 that of (x1²)². Factor the first: x1 and x2 are independent."


@exercise("11.2")
def by_differences(function):
    rng = np.random.default_rng(0)
    for name, of, d in (("rank-2", data.LOW_RANK["rank-2"], 4), ("rank-4", data.LOW_RANK["rank-4"], 6)):
        x = rng.standard_normal((50, d))
        asked = []

        def f(points, of=of, d=d, asked=asked):
            points = np.asarray(points)
            if points.ndim != 2 or points.shape[1] != d:
                raise ValueError(f"f wants points of shape (n, {d}), not {points.shape}")
            asked.append(len(points))
            return of(points)

        found = np.asarray(function(f, x.copy()))
        if found.shape != (d, d):
            return False, f"The AGOP of a function of {d} inputs has shape ({d}, {d}); yours has {found.shape}."
        gradients = np.stack([g(x) if g else np.zeros(len(x)) for g in of.gradient(d)], 1)
        exact = gradients.T @ gradients / len(x)
        if np.allclose(found, np.outer(gradients.mean(0), gradients.mean(0)), atol=1e-3):
            return False, "That is the outer product of the mean gradient. First the products, then their mean."
        if np.allclose(found, len(x) * exact, rtol=1e-3, atol=1e-3):
            return False, f"{len(x)} times too large: that is the sum over the points. The A in AGOP is an average."
        if not np.allclose(found, exact, rtol=1e-4, atol=1e-4):
            worst = abs(found - exact).max()
            return False, f"On the {name} target an entry is off by {worst:.2g}. Difference one input at a time."
        if not asked:
            return False, "Right, but f was never called. Use nothing of it but its values at points of your choice."
    return True, f"It took {sum(asked)} values of f for 50 points in {d} dimensions. Backpropagation takes one pass."


@exercise("11.3")
def features_first(function):
    G = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    for matrix in (G, 7 * G):
        found = torch.as_tensor(function(matrix.clone())).double()
        if found.shape != G.shape:
            return False, f"For a G of shape (3, 3) the answer has shape (3, 3), not {tuple(found.shape)}."
        if not torch.allclose(found, found.T, atol=1e-8):
            return False, "M has to be symmetric: the root of G from its eigenvectors, Q √Λ Qᵀ."
        if not torch.allclose(found @ found, 3 * G / G.trace(), atol=1e-6):
            return False, "M·M has to be G, scaled so that its trace is d. Take the root of the eigenvalues, not of G."
    before, after = _with_features(function)
    if not after < before:
        return False, f"The fit gets no better by it: test loss {before:.2f} before, {after:.2f} after."
    return True, f"A kernel fit of x1·x2, 400 points, 20 dimensions: test loss {before:.2f} before, {after:.2f} after."


def _with_features(root):
    """The test loss of a Gaussian-kernel fit of the rank-2 target, and of the same on inputs times root(its AGOP)."""
    d = 20
    x, y = data.gaussian("rank-2", 400, d, seed=0)
    x_test, y_test = data.gaussian("rank-2", 1000, d, noise=0, seed=1)

    def fit(x):
        def f(weights, z):
            squared = (z**2).sum(1, keepdim=True) + (x**2).sum(1) - 2 * z @ x.T
            return torch.exp(-squared / (2 * d)) @ weights

        K = torch.exp(-(torch.cdist(x, x) ** 2) / (2 * d))
        return f, torch.linalg.solve(K + 0.01 * torch.eye(len(x), dtype=x.dtype), y)

    f, weights = fit(x)
    M = torch.as_tensor(root(agop.agop(f, weights, x).matrix)).to(x)
    g, again = fit(x @ M)
    return ((f(weights, x_test) - y_test) ** 2).mean().item(), ((g(again, x_test @ M) - y_test) ** 2).mean().item()
