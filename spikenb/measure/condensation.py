"""Condensation: how far the neurons of a two-layer net share a few orientations.

Neuron j of f(x) = Σ_j a_j σ(w_j x + b_j) + c is an arrow (w_j, b_j) in the plane. Its angle against (1, 0) is the
neuron's orientation, and ``A_j = |a_j| ‖(w_j, b_j)‖`` its amplitude: how strongly it acts. Section 6 of *Loss Spike in
Training Neural Networks* shows both in scatter plots; the measures here turn such a plot into numbers.
"""

from typing import NamedTuple

import numpy as np

from .. import _checks


class Neurons(NamedTuple):
    """The neurons of a net, one entry each, float64, shape (k,).

    `angle`: the orientation in radians, in [-period/2, period/2); `amplitude`: A = `output` · `input`, with
    `output` = ``|a|`` and `input` = ``‖(w, b)‖``. `period` is 2π, or π where opposite arrows are the same neuron.
    """

    angle: np.ndarray
    amplitude: np.ndarray
    output: np.ndarray
    input: np.ndarray
    period: float


def neurons(a, w, b, odd=False, alive_on=None):
    """Orientation and amplitude of every neuron of a two-layer net with one input.

    Parameters
    ----------
    a, w, b : array or tensor, shape (m,); w also (m, 1)
        Output weight, input weight and bias, as `TwoLayer.split` returns them.
    odd : bool
        Whether σ is odd, like tanh: then (a, w, b) and (-a, -w, -b) are the same neuron, and angles are taken
        modulo π.
    alive_on : pair of floats, optional
        For ReLU: leave out neurons that are zero everywhere on this interval of x. They cannot change the output,
        and no gradient reaches them.

    Returns
    -------
    Neurons

    Raises ValueError for arrays of different length, NaN, an interval whose ends are not in order, and a net
    without a living neuron.
    """
    w = _checks.array("w", w)
    a, w, b = _checks.array("a", a, 1), w[:, 0] if w.ndim == 2 and w.shape[1] == 1 else w, _checks.array("b", b, 1)
    if w.shape != a.shape or b.shape != a.shape:
        raise ValueError(f"w and b must have a's shape {a.shape}, not {w.shape} and {b.shape}")
    if alive_on is not None:
        ends = _checks.array("alive_on", alive_on, 1)
        if len(ends) != 2 or not ends[0] < ends[1]:
            raise ValueError(f"alive_on must be (low, high) with low < high, not {alive_on}")
        low, high = ends
        alive = np.maximum(w * low + b, w * high + b) > 0  # linear in x: the largest value is at an end
        if not alive.any():
            raise ValueError("alive_on leaves no neuron: all are zero on the whole interval")
        a, w, b = a[alive], w[alive], b[alive]
    period, size = np.pi if odd else 2 * np.pi, np.hypot(w, b)
    angle = (np.arctan2(b, w) + period / 2) % period - period / 2
    angle[angle >= period / 2] -= period  # % rounds tiny negative numbers up to the period
    return Neurons(angle, np.abs(a) * size, np.abs(a), size, period)


def near_share(angles, weights, period, degrees=5.0):
    """The chance that two draws of a neuron, each by weight, give orientations at most `degrees` apart.

    Σ_ij A_i A_j [d(φ_i, φ_j) ≤ δ] / (ΣA)², with d the distance on a circle of circumference `period`. The pairs i = j
    are in it, so that a neuron split in two parallel halves counts as it did before; their part is 1/`participation`,
    and the rest is different neurons that agree. Even weights, evenly spread, give about 2δ/period.

    Parameters
    ----------
    angles : array, shape (k,), in radians
    weights : array, shape (k,), not negative and not all zero
        The amplitudes, or ``|a|`` or ``‖(w, b)‖``.
    period : float, in radians
    degrees : float, above 0

    Returns
    -------
    float, in (0, 1]; 1 where all the weight lies within `degrees`.
    """
    angles, weights, period = _weighted(angles, weights, period)
    reach = np.radians(_checks.positive("degrees", degrees))
    apart = np.abs(angles[:, None] - angles) % period
    near = np.minimum(apart, period - apart) <= reach
    return float(weights @ near @ weights / weights.sum() ** 2)


def effective_orientations(angles, weights, period, bins=36):
    """The effective number of orientations, exp(-Σ p_k ln p_k), for the shares p_k of the weight in `bins` equal bins.

    It is k where the weight lies evenly in k bins, and at most `bins`. The bins start at -period/2, so that 36 of
    them are 5° wide for tanh and 10° for ReLU; a peak that lies across an edge counts as two.

    Parameters as in `near_share`; `bins` is a whole number of at least 2. Returns a float in [1, bins].
    """
    angles, weights, period = _weighted(angles, weights, period)
    bins = _checks.count("bins", bins, 2)
    place = (((angles + period / 2) % period) / period * bins).astype(int) % bins
    p = np.bincount(place, weights, bins) / weights.sum()
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def participation(weights):
    """The participation number (ΣA)²/ΣA²: k for k equal weights and nothing else, so how many neurons do the work.

    It knows nothing of orientations. Returns a float between 1 and the number of weights.
    """
    weights = _weights(weights)
    return float(weights.sum() ** 2 / (weights @ weights))


def measures(neurons, weights=None):
    """The three measures above as a dict: "near", "orientations" and "participation".

    `weights`, shape (k,), are the amplitudes unless given; `neurons.output` and `neurons.input` are the two sides of
    them. Condensed is a large share, few orientations, few neurons.
    """
    weights = neurons.amplitude if weights is None else weights
    return {
        "near": near_share(neurons.angle, weights, neurons.period),
        "orientations": effective_orientations(neurons.angle, weights, neurons.period),
        "participation": participation(weights),
    }


def total_variation(f):
    """``Σ|f_{i+1} - f_i|`` of outputs f, shape (n,), n ≥ 2: the way up and down that a curve makes, a float."""
    f = _checks.array("f", f, 1)
    if len(f) < 2:
        raise ValueError(f"f needs 2 values at least, not {len(f)}")
    return float(np.abs(np.diff(f)).sum())


def kink_mass(x, f):
    """The total change of slope ``Σ|s_{i+1} - s_i|`` with s_i = (f_{i+1} - f_i)/(x_{i+1} - x_i), a float.

    For a piecewise linear curve that is the sum of the sizes of its kinks; for a smooth one about the integral of
    the size of f''. x and f have shape (n,), n ≥ 3, x strictly increasing.
    """
    x, f = _checks.array("x", x, 1), _checks.array("f", f, 1)
    if x.shape != f.shape or len(x) < 3:
        raise ValueError(f"x and f need the same length of at least 3, not {len(x)} and {len(f)}")
    if not (np.diff(x) > 0).all():
        raise ValueError("x must be strictly increasing")
    return float(np.abs(np.diff(np.diff(f) / np.diff(x))).sum())


def _weighted(angles, weights, period):
    angles, weights = _checks.array("angles", angles, 1), _weights(weights)
    if angles.shape != weights.shape:
        raise ValueError(f"weights must have angles' shape {angles.shape}, not {weights.shape}")
    return angles, weights, _checks.positive("period", period)


def _weights(weights):
    weights = _checks.array("weights", weights, 1)
    if (weights < 0).any() or not weights.any():
        raise ValueError("weights must not be negative, and not all zero")
    return weights / weights.max()
