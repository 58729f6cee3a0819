"""Curvature of a loss: Hessian eigenvalues, sharpness, and the critical learning rate."""

from typing import NamedTuple

import numpy as np
import torch

from . import _two_layer

LARGEST_DENSE = 2000


class Spectrum(NamedTuple):
    """Eigenvalues in descending order, shape (dim,), and their unit eigenvectors as columns, (dim, dim); float64."""

    values: np.ndarray
    vectors: np.ndarray


def spectrum(problem, theta):
    """All eigenvalues λ1 ≥ λ2 ≥ … and eigenvectors of the Hessian ∇²L(θ), from the dense matrix.

    Raises ValueError for more than 2,000 parameters, where the dense matrix is the wrong tool, and
    FloatingPointError where the Hessian is not finite. The equivalent elsewhere:
    `numpy.linalg.eigh(torch.func.hessian(L)(θ))`.
    """
    values, vectors = torch.linalg.eigh(_dense_hessian(problem, theta))
    return Spectrum(values.flip(0).numpy(), vectors.flip(1).numpy())


def top_eigenvalue(problem, theta):
    """The sharpness λmax, the largest eigenvalue of ∇²L(θ), a float. Use it as a probe of `descent.gd`."""
    return torch.linalg.eigvalsh(_dense_hessian(problem, theta))[-1].item()


def critical_learning_rate(problem, theta):
    """η_crit = 2/λmax: the learning rate above which GD is linearly unstable at θ; inf where λmax ≤ 0."""
    top = top_eigenvalue(problem, theta)
    return 2 / top if top > 0 else np.inf


def _dense_hessian(problem, theta):
    if problem.dim > LARGEST_DENSE:
        raise ValueError(f"problem has {problem.dim} parameters; the dense Hessian stops at {LARGEST_DENSE}")
    theta = problem.parameters(theta)
    closed_form = _two_layer.applies(problem) and theta.dtype == torch.float64
    hessian = (_two_layer.hessian(problem, theta) if closed_form else problem.hessian(theta)).double().cpu()
    if not torch.isfinite(hessian).all():
        raise FloatingPointError("theta gives a Hessian with NaN or infinite entries")
    return hessian
