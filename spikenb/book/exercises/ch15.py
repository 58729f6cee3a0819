"""Chapter 15: the dataset-size singularity."""

import numpy as np
import torch

from ... import networks
from ...curvature import top_eigenvalue
from ...problem import Fit
from . import exercise


@exercise("15.1")
def the_same_flow_on_more_points(function):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 2, (12,), generator=generator)
    net = networks.fcn(3, 5, 2, 2, "tanh", bias=True, parametrisation="standard")
    for k in (1, 3):
        X, Y = function(x.clone(), y.clone(), k)
        if len(X) != 12 * k or len(Y) != 12 * k:
            return False, f"For k = {k} and 12 points you return {len(X)} inputs and {len(Y)} targets, not {12 * k}."
        for seed in range(3):
            theta = networks.pytorch(net, seed)
            small, large = (Fit(net, *pair, "cross_entropy") for pair in ((x, y), (X, Y)))
            if not torch.allclose(small.grad(theta), large.grad(theta), rtol=1e-9, atol=1e-12):
                return False, (
                    f"For k = {k} the gradient of the larger set differs at some θ, so the flow goes another way. "
                    "Which points leave a mean as it is, whatever is averaged?"
                )
            if abs(top_eigenvalue(small, theta) / top_eigenvalue(large, theta) - 1) > 1e-9:
                return False, f"For k = {k} the gradient is the same, but λ1 is not."
    return True, "The same loss, gradient and λ1 with k times the points: a count alone does nothing."


@exercise("15.2")
def exponent_of_the_even_part(function):
    d = np.geomspace(0.01, 0.1, 9)
    for name, p, slope in (("a cusp", 0.5, 7.0), ("a fold", 1.0, -5.0), ("a parabola", 2.0, 3.0)):
        found = float(function(lambda t, p=p, slope=slope: 4 + 0.3 * np.abs(t) ** p + slope * t + 20 * t**3, d))
        if not abs(found - p) < 1e-6:
            return False, (
                f"For {name}, |Δ|^{p:g} with a slope of {slope:g}, you find {found:.3f}. "
                "Odd terms cancel in f(Δ) + f(-Δ); has f(0) been taken off?"
            )
    return True, "A cusp is seen as one, though the slope is larger than the tip."


@exercise("15.3")
def a_fair_contest(function):
    n = np.array([25.0, 50, 100, 200, 400, 800])
    laws = {"line": lambda n: 10 + 0.15 * n, "root": lambda n: 2 + 2.5 * np.sqrt(n)}
    right = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        for name, law in laws.items():
            right += function(n.copy(), law(n) * np.exp(0.05 * rng.standard_normal(len(n)))) == name
    if right >= 36:
        return True, f"{right} of 40 known laws are recognised."
    return False, (
        f"{right} of 40 known laws are recognised; 36 are possible. Is each size predicted from the others alone, "
        "and is each error relative to its peak?"
    )
