"""Functions of one variable by frequency: power spectra, the low-frequency proportion, output differences.

A function is its values on `points`, a uniform grid that covers one period. Frequency k is k waves a period, so
that on [-π, π) the function sin 4x has its power at k = 4.
"""

import numpy as np

from .. import _checks


def points(low, high, n):
    """n equidistant points from `low` on, the end `high` left out: one period, as a Fourier transform wants it.

    Parameters
    ----------
    low, high : float
        The ends of the period, low < high.
    n : int
        At least 3.

    Returns
    -------
    ndarray, shape (n,)
    """
    low, high = _checks.array("low", low, 0).item(), _checks.array("high", high, 0).item()
    if not low < high:
        raise ValueError(f"low must be below high, not {low} and {high}")
    return low + (high - low) * np.arange(_checks.count("n", n, 3)) / n


def power(f):
    """The power of a function at each frequency: ``P(k) = |f̂(k)|² + |f̂(-k)|²``.

    Here f̂(k) = (1/n) Σ_j f_j e^(-2πi jk/n). The powers sum to the mean square of f (Parseval). A sin(kx) and
    A cos(kx) have P(k) = A²/2, a constant A has P(0) = A².

    Parameters
    ----------
    f : array, shape (…, n), n ≥ 3
        Values on `points`, one function along the last axis. Real and finite.

    Returns
    -------
    ndarray, shape (…, n // 2 + 1): P(0), P(1), …
    """
    f = _functions(f)
    n = f.shape[-1]
    found = np.abs(np.fft.rfft(f, axis=-1) / n) ** 2
    found[..., 1 : (n + 1) // 2] *= 2  # k and -k; at k = n/2 the two are one
    return found


def lfp(f, K, mean=False):
    """The low-frequency proportion, equation (2) of *Loss Spike in Training Neural Networks*.

    ``LFP(K) = Σ_{k ≤ K} |f̂(k)|² / Σ_k |f̂(k)|²``.

    Parameters
    ----------
    f : array, shape (…, n), n ≥ 3
        Values on `points`, one function along the last axis.
    K : int, or array of ints
        The thresholds, from 0 to n // 2.
    mean : bool
        Whether k = 0, the function's mean, is counted. The source does not say. Without it both sums start at 1,
        and LFP(0) is 0.

    Returns
    -------
    ndarray, f's shape without the last axis, followed by K's shape.

    Raises ValueError for a function that has no power to divide by: one that is constant (zero, with `mean`).
    """
    f, K = _functions(f), np.asarray(K)
    if not np.issubdtype(K.dtype, np.integer):
        raise TypeError(f"K must be whole numbers, not {K.dtype}")
    last = f.shape[-1] // 2
    if K.size == 0 or K.min() < 0 or K.max() > last:
        raise ValueError(f"K must be from 0 to {last}, half the number of points, not {K}")
    powers = power(f if mean else f - f.mean(axis=-1, keepdims=True))
    if not mean:
        powers[..., 0] = 0
    total = powers.sum(axis=-1, keepdims=True)
    if (total <= 1e-30 * (f**2).mean(axis=-1, keepdims=True)).any():
        raise ValueError(f"f has a function that is {'zero' if mean else 'constant'}; it has no spectrum to divide")
    return (powers.cumsum(axis=-1) / total)[..., K]


def random_differences(outputs, theta, radius, count=100, seed=0):
    """How the outputs change by a step of a given length in random directions: f(θ_rnd) - f(θ), one row a draw.

    θ_rnd = θ + (radius/‖ε‖₂) ε with ε ~ N(0, I), as in section 4.3 of *Loss Spike in Training Neural Networks*, where
    θ is θ_end and the radius ‖θ_end - θ_max‖₂.

    Parameters
    ----------
    outputs : callable
        f of a vector of shape (dim,), an array of shape (n,).
    theta : array, shape (dim,)
    radius : float
        The length of the step, above 0.
    count : int
        The number of draws.
    seed : int
        Of NumPy's `default_rng`.

    Returns
    -------
    ndarray, shape (count, n)
    """
    theta, radius = _checks.array("theta", theta, 1), _checks.positive("radius", radius)
    steps = np.random.default_rng(seed).standard_normal((_checks.count("count", count), len(theta)))
    steps *= radius / np.linalg.norm(steps, axis=1, keepdims=True)
    there = np.array([np.asarray(outputs(theta + step)) for step in steps])
    return there - np.asarray(outputs(theta))


def _functions(f):
    f = _checks.array("f", f)
    if f.ndim == 0 or f.shape[-1] < 3:
        raise ValueError(f"f needs 3 points at least along its last axis, not shape {f.shape}")
    return f
