"""Training sets: the sources' one-dimensional target functions on a grid."""

import numpy as np

from . import _checks

TARGETS = {
    "sin x + sin 4x": lambda x: np.sin(x) + np.sin(4 * x),
    "tanh(x-6) + tanh(x+6)": lambda x: np.tanh(x - 6) + np.tanh(x + 6),
    "two relus": lambda x: np.maximum(-x - 1 / 3, 0) / 2 + np.maximum(x - 1 / 3, 0) / 2,
}
"""The targets of *Loss Spike in Training Neural Networks*: figures 2-4; 5, 6(a), 7 and 9; 8."""


def grid(target, low, high, n):
    """n equidistant points from `low` to `high`, both included, and a target function's values there.

    Parameters
    ----------
    target : str or callable
        A name in `TARGETS`, or a function of an array of shape (n,).
    low, high : float
        The ends, low < high.
    n : int
        The number of points, at least 2.

    Returns
    -------
    x, y : ndarray
        float64, shape (n,) each.
    """
    if isinstance(target, str):
        target = TARGETS[_checks.choice("target", target, TARGETS)]
    low, high = _checks.array("low", low, 0).item(), _checks.array("high", high, 0).item()
    if not low < high:
        raise ValueError(f"low must be below high, not {low} and {high}")
    x = np.linspace(low, high, _checks.count("n", n, 2))
    return x, _checks.array("target(x)", target(x), 1)
