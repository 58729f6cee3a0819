"""Loss spikes: where a loss rises far above its surroundings and comes back."""

from typing import NamedTuple

from .. import _checks


class Spike(NamedTuple):
    """One spike: the step of the peak, the loss there, and the smallest losses before and after it in the window.

    It runs from `start`, the step of that smallest loss before the peak, to `end`, the end of the descent: the
    first step after the peak with a loss of at most 1.5 times the larger of `before` and `after`.
    """

    step: int
    peak: float
    before: float
    after: float
    start: int
    end: int

    @property
    def ratio(self):
        """peak / before."""
        return self.peak / self.before


def find_spikes(loss, window=300, ratio=3.0):
    """The spikes of a loss curve: detect events, never index epochs.

    A step is a spike's peak if its loss is the largest within ± `window` steps and at least `ratio` times
    the smallest loss on either side within the window.

    Parameters
    ----------
    loss : array, shape (T,)
        Finite and positive, one value a step.
    window : int
        Steps to either side.
    ratio : float
        The least peak/before and peak/after, above 1.5.

    Returns
    -------
    list of Spike, in order.
    """
    loss = _checks.array("loss", loss, 1)
    if (loss <= 0).any():
        raise ValueError(f"loss must be positive; it is {loss.min()} at step {loss.argmin()}")
    window = _checks.count("window", window)
    if not _checks.positive("ratio", ratio) > 1.5:
        raise ValueError(f"ratio must be above 1.5, not {ratio}")
    found = []
    for t in range(1, len(loss) - 1):
        if not loss[t - 1] < loss[t] >= loss[t + 1]:
            continue
        first, last = max(0, t - window), min(len(loss), t + window + 1)
        if loss[t] < loss[first:last].max():
            continue
        before, after = loss[first:t].min(), loss[t + 1 : last].min()
        if loss[t] >= ratio * max(before, after):
            start = first + int(loss[first:t].argmin())
            end = t + int((loss[t:last] <= 1.5 * max(before, after)).argmax())
            found.append(Spike(t, float(loss[t]), float(before), float(after), start, end))
    return found
