"""Chapter 7: the same in a CNN on real images."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn.functional import mse_loss, one_hot

from ... import data, networks
from ...descent import gd
from ...measure.spikes import find_spikes
from ...problem import Problem
from . import exercise


@exercise("7.1")
def same_steps(eta):
    if math.isclose(eta, 0.01, rel_tol=1e-6):
        return True, "Ten times the loss, a tenth of the rate, ten times the threshold: the same steps."
    if math.isclose(eta, 1.0, rel_tol=1e-6):
        return False, "The other way round: the gradient of Fit's loss is ten times as long, not a tenth."
    return (
        False,
        f"With η = {eta:g} a step is {10 * eta / 0.1:.3g} times as long as before. What became of the gradient?",
    )


@exercise("7.2")
def one_product(function):
    generator = torch.Generator().manual_seed(0)
    for dim in (3, 8, 30):
        H = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
        H = H @ H.T
        v = torch.randn(dim, generator=generator, dtype=torch.float64)
        v, calls = v / v.norm(), []

        def hvp(u, H=H, calls=calls):
            calls.append(u)
            return H @ u

        rho, residual, after = function(hvp, v.clone())
        right = v @ H @ v
        if not math.isclose(rho, right, rel_tol=1e-9):
            hint = "|Hv| is the eigenvalue only where v is the eigenvector already; " if rho > right else ""
            return (
                False,
                f"The estimate is {float(rho):.4g}, but vᵀHv is {right:.4g}: {hint}look at the Rayleigh quotient.",
            )
        if not math.isclose(residual, (H @ v - right * v).norm(), rel_tol=1e-9):
            return False, f"The residual is {float(residual):.4g}, not |Hv - ρv| = {(H @ v - right * v).norm():.4g}."
        if not torch.allclose(after, H @ v / (H @ v).norm()):
            return False, "The third value is not Hv divided by its length: that is what the next step starts from."
        if len(calls) != 1:
            return False, f"It took {len(calls)} products. Keep Hv in a variable: products are all that costs anything."
        for _ in range(2000):
            rho, residual, after = function(hvp, after)
        if not math.isclose(rho, torch.linalg.eigvalsh(H)[-1], rel_tol=1e-6):
            return False, "One step is right, but repeated it does not find the largest eigenvalue."
    return True, "One product a step. How would you notice that a second eigenvalue has overtaken the first?"


@exercise("7.3")
def without_a_spike(function):
    images, labels = data.load("digits", n=100)
    targets = one_hot(labels, 10).float()
    net = networks.Network(
        nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 4 * 4, 10)
        )
    )
    problem = Problem(lambda theta: mse_loss(net(theta, images), targets), net.dim)
    run = gd(problem, networks.pytorch(net, seed=1).float(), function(0.3), 250)
    if run.stopped:
        return False, f"The run {run.stopped}. Which rate is stable at a sharpness λ?"
    spikes, time = find_spikes(run.loss, window=50, ratio=1.6), float(np.sum(run.lr))
    if spikes:
        return False, (
            f"The loss spikes by a factor of {max(s.ratio for s in spikes):.1f}, at step {spikes[0].step}. "
            "Measure the sharpness at each step and keep η below 2/λmax."
        )
    if time < 55:
        return False, f"No spike, but the rates add up to {time:.1f} only. How close to 2/λmax can you go?"
    return True, f"No spike, and the rates add up to {time:.1f}. Where does the sharpness go, with nothing to stop it?"
