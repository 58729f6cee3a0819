"""Catapults along SGD: spikes of its loss, the kernel norm around them, and match rates with their base rates."""

from typing import NamedTuple

import numpy as np

from .. import _checks
from .spikes import Spike


def sgd_spikes(loss, window=8, ratio=1.5):
    """The spikes of a loss under SGD, where one may follow the other within a few steps.

    A step is a peak if its loss is a local maximum and at least `ratio` times the smallest loss of the `window` steps
    before it. Unlike `spikes.find_spikes` this asks nothing of what comes later.

    Parameters
    ----------
    loss : array, shape (T,)
        Finite and positive, one value a step; of the whole set, not of the batches.
    window : int
    ratio : float
        Above 1.

    Returns
    -------
    list of `spikes.Spike`, in order: `start` is the step of the smallest loss before the peak, `after` the smallest
    loss of the window behind it, `end` the first step there with a loss below the middle of `after` and `peak`.
    """
    loss = _checks.array("loss", loss, 1)
    if (loss <= 0).any():
        raise ValueError(f"loss must be positive; it is {loss.min()} at step {loss.argmin()}")
    window = _checks.count("window", window)
    if not _checks.positive("ratio", ratio) > 1:
        raise ValueError(f"ratio must be above 1, not {ratio}")
    found = []
    for t in range(1, len(loss) - 1):
        first, last = max(0, t - window), t + window + 1
        before = loss[first:t].min()
        if loss[t - 1] < loss[t] >= loss[t + 1] and loss[t] >= ratio * before:
            start, after = first + int(loss[first:t].argmin()), loss[t + 1 : last].min()
            end = t + int((loss[t:last] <= (after + loss[t]) / 2).argmax())
            found.append(Spike(t, float(loss[t]), float(before), float(after), start, end))
    return found


def norm_ratios(norm, steps, ahead=5):
    """How far a norm falls around given steps: the minimum over t … t + ahead, divided by the value at t - 1.

    norm : array, shape (T,), positive. steps : ints from 1 to T - 1. Returns float64, shape (len(steps),).
    """
    norm, steps = _checks.array("norm", norm, 1), np.asarray(steps, dtype=int)
    ahead = _checks.count("ahead", ahead, 0)
    if (norm <= 0).any():
        raise ValueError(f"norm must be positive; it is {norm.min()} at step {norm.argmin()}")
    if steps.size and not 1 <= steps.min() <= steps.max() < len(norm):
        raise ValueError(f"steps must lie between 1 and {len(norm) - 1}, not between {steps.min()} and {steps.max()}")
    return np.array([norm[t : t + ahead + 1].min() / norm[t - 1] for t in steps])


def quiet_steps(length, steps, ahead=5):
    """The steps whose window t - 1 … t + ahead lies within a run of `length` steps, and shares no step with the window
    of any of the given steps: the controls of `norm_ratios`. Ints, ascending."""
    length, ahead = _checks.count("length", length), _checks.count("ahead", ahead, 0)
    steps, every = np.asarray(steps, dtype=int), np.arange(1, length - ahead)
    return every[(abs(every[:, None] - steps.reshape(1, -1)) > ahead + 1).all(1)]


def rise_shares(loss, part, spikes):
    """The share of each spike's rise, `start` to peak, that one part of the loss has; above 1 where the rest falls.

    loss, part : arrays, shape (T,). spikes : list of `spikes.Spike`. Returns float64, shape (len(spikes),).
    """
    loss, part = _checks.array("loss", loss, 1), _checks.array("part", part, 1)
    if loss.shape != part.shape:
        raise ValueError(f"part must have the shape of loss, {loss.shape}, not {part.shape}")
    return np.array([(part[s.step] - part[s.start]) / (loss[s.step] - loss[s.start]) for s in spikes])


class Match(NamedTuple):
    """Does "the loss rises" go with "η is over the batch's critical rate"? NaN where there is nothing to divide by.

    rate : P(over | rises), the match rate. base : P(over), what a rate of steps drawn blindly would be.
    converse : P(rises | over). rises, over, steps : the counts.
    """

    rate: float
    base: float
    converse: float
    rises: int
    over: int
    steps: int


def match(rises, over):
    """The `Match` of two bool arrays, shape (T,): whether each step raises the loss, and whether η is over."""
    rises, over = np.asarray(rises, dtype=bool), np.asarray(over, dtype=bool)
    if rises.ndim != 1 or rises.shape != over.shape or not len(rises):
        raise ValueError(f"rises and over must be of one length, not of shapes {rises.shape} and {over.shape}")
    both, up, above = int((rises & over).sum()), int(rises.sum()), int(over.sum())
    return Match(
        both / up if up else np.nan, above / len(over), both / above if above else np.nan, up, above, len(over)
    )
