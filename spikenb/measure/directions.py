"""A displacement in parameter space along the eigenvectors of a Hessian: what each holds, and what it does.

Section 5 of *Loss Spike in Training Neural Networks* asks which eigendirections of the training loss carry the
difference between a minimum that generalises badly and a better one. Everything here is plain linear algebra on
vectors that a run recorded.
"""

from typing import NamedTuple

import numpy as np

from .. import _checks


class Projection(NamedTuple):
    """A displacement d along unit vectors v_1, …, v_k.

    values : ndarray, shape (k,): p_i = ⟨d, v_i⟩. Its sign is that of v_i, which is arbitrary.
    shares : ndarray, shape (k,): p_i²/‖d‖², the share of the squared displacement along each.
    """

    values: np.ndarray
    shares: np.ndarray


def project(displacement, vectors):
    """The projections of a displacement on orthonormal directions.

    Parameters
    ----------
    displacement : array or tensor, shape (dim,)
        d, not zero.
    vectors : array or tensor, shape (dim, k)
        v_1, …, v_k as columns, as `curvature.spectrum` and `curvature.top_eigenpairs` return them.

    Returns
    -------
    Projection

    The shares of a complete basis sum to 1. A random direction has 1/dim along each on average, the base rate that
    a small share must be held against. Raises ValueError for shapes that do not fit, a displacement of zero, or
    columns that are not orthonormal (to 1e-3, single precision allowed for).
    """
    d, v = _basis(displacement, vectors)
    length = d @ d
    if length == 0:
        raise ValueError("displacement is zero; it has no direction")
    values = v.T @ d
    return Projection(values, values**2 / length)


def losses_along(loss, theta, displacement, vectors, counts):
    """L(i), the loss after the displacement's part in the first i directions was added to θ, for each i of `counts`.

    ``L(i) = R(θ + Σ_{j ≤ i} ⟨d, v_j⟩ v_j)``, section 5.1 of *Loss Spike in Training Neural Networks*, where θ is
    θ_train, d = θ_test - θ_train and R the loss of the test set.

    Parameters
    ----------
    loss : callable
        R of a float64 vector of shape (dim,), such as `problem.loss`.
    theta, displacement : arrays or tensors, shape (dim,)
    vectors : array or tensor, shape (dim, k), orthonormal columns
    counts : list of int, each from 0 to k

    Returns
    -------
    ndarray, shape (len(counts),)
    """
    d, v = _basis(displacement, vectors)
    theta = _checks.array("theta", _plain(theta), 1)
    if theta.shape != d.shape:
        raise ValueError(f"theta must have displacement's shape {d.shape}, not {theta.shape}")
    counts = [_checks.count("counts", int(i), 0) for i in counts]
    if max(counts) > v.shape[1]:
        raise ValueError(f"counts must be at most {v.shape[1]}, the number of vectors, not {max(counts)}")
    p = v.T @ d
    return np.array([float(loss(theta + v[:, :i] @ p[:i])) for i in counts])


def explained(values):
    """The share of the sharpness in the first n directions, ``Σ_{i ≤ n} λ_i² / Σ_i λ_i²`` for n = 1, …, k.

    The source's orange line in figure 6. `values` are λ_1, …, λ_k, shape (k,), not all zero. Returns shape (k,).
    """
    squares = _checks.array("values", values, 1) ** 2
    if not squares.any():
        raise ValueError("values are all zero; there is nothing to explain")
    return squares.cumsum() / squares.sum()


def zero_crossings(f):
    """How often a function on a grid changes its sign; values of exactly zero count as neither.

    Parameters
    ----------
    f : array, shape (…, n)
        Values on a grid, one function along the last axis.

    Returns
    -------
    int, or ndarray of ints of f's shape without the last axis
    """
    f = _checks.array("f", f)
    if f.ndim == 0:
        raise ValueError("f must have one dimension at least")
    found = np.array([_changes(row) for row in f.reshape(-1, f.shape[-1])])
    return int(found[0]) if f.ndim == 1 else found.reshape(f.shape[:-1])


def _changes(row):
    signs = np.sign(row[row != 0])
    return np.count_nonzero(signs[1:] != signs[:-1])


def _basis(displacement, vectors):
    """Both as float64 arrays that fit."""
    d, v = _checks.array("displacement", _plain(displacement), 1), _checks.array("vectors", _plain(vectors), 2)
    if len(v) != len(d):
        raise ValueError(f"vectors must have {len(d)} rows, one a parameter, not {len(v)}")
    if np.abs(v.T @ v - np.eye(v.shape[1])).max() > 1e-3:
        raise ValueError("vectors must be orthonormal columns")
    return d, v


def _plain(value):
    """A tensor as an array, from any device."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value
