"""Chapter 16: a run of the reader's own."""

import math

import torch

from . import exercise


@exercise("16.1")
def ratio_for_heavy_ball(function):
    for eta, beta, lam in ((0.1, 0.0, 20.0), (0.1, 0.9, 38.0), (0.02, 0.5, 75.0)):
        found, right = float(function(eta, beta, lam)), eta * lam / (2 + 2 * beta)
        if not math.isclose(found, right, rel_tol=1e-9):
            return False, (
                f"For η = {eta}, β = {beta}, λ1 = {lam} you have {found:.3g}, not {right:.3g}. "
                "Is the threshold that of heavy-ball momentum, and is the ratio 1 where λ1 reaches it?"
            )
    return True, "It is 1 at the threshold, with and without momentum."


@exercise("16.2")
def heaviest_samples(function):
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        J = 0.1 * torch.randn(12, 30, generator=generator)
        shared = torch.randn(30, generator=generator)
        team = torch.randperm(12, generator=generator)[:4]
        J[team] += shared * (1 + 0.2 * torch.arange(4)[:, None])
        alone = next(i for i in range(12) if i not in team.tolist())
        J[alone] = torch.randn(30, generator=generator)
        J[alone] *= 2.2 * shared.norm() / J[alone].norm()  # the largest gradient, in a direction of its own
        v = torch.linalg.svd(J, full_matrices=False).Vh[0]
        right = (J @ v).square().argsort(descending=True)[:4].tolist()
        found = [int(i) for i in function(J.clone(), 4)]
        if found != right:
            return False, (
                f"You name {found}, not {right}. Order the samples by their part of the top direction, (Jv)ᵢ²; "
                "the one with the largest gradient need not have any."
            )
    return True, "Four samples that pull the same way outweigh a larger one that pulls alone."


@exercise("16.3")
def which_clock(function):
    cases = {
        (0.01, 10.0, 0.1, 15.0): "schedule",
        (0.1, 2.0, 0.15, 20.0): "curvature",
        (0.1, 5.0, 0.1, 25.0): "curvature",
        (0.001, 100.0, 0.004, 150.0): "schedule",
    }
    for numbers, right in cases.items():
        if (found := function(*numbers)) != right:
            return False, (
                f"From η = {numbers[0]}, λ1 = {numbers[1]} to η = {numbers[2]}, λ1 = {numbers[3]} you say {found!r}, "
                f"not {right!r}. Compare factors, not differences: their units differ."
            )
    return True, "The larger factor, whatever the units."
