"""Gradient descent, and the record of a run."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from . import _checks


class Series(NamedTuple):
    """What was measured along a run: `steps`, shape (k,), and `values`, shape (k, …), float64."""

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Run:
    """The record of a descent. `run["name"]` is the `Series` of the probe of that name.

    loss : ndarray, shape (T + 1,): L(θ_t) for t = 0 … T; always finite.
    theta : tensor, shape (dim,): θ_T.
    lr : float: the learning rate η.
    records : dict: one `Series` a probe.
    checkpoints : `Series` of θ, shape (k, dim).
    stopped : None, or why and at which step the run ended before its time.
    """

    loss: np.ndarray
    theta: torch.Tensor
    lr: float
    records: dict
    checkpoints: Series
    stopped: str | None

    @property
    def steps(self):
        """0, 1, …, T, as an array of the shape of `loss`."""
        return np.arange(len(self.loss))

    def __getitem__(self, name):
        return self.records[_checks.choice("name", name, self.records)]


def every(k, probe):
    """A probe that is called at steps 0, k, 2k, … only."""
    return _Every(_checks.count("k", k), probe)


class _Every(NamedTuple):
    k: int
    probe: object


def gd(problem, theta0, lr, steps, record=None, keep=None):
    """Gradient descent θ ← θ - η∇L(θ), with the loss of every step.

    Parameters
    ----------
    problem : Problem
    theta0 : array or tensor, shape (dim,)
        The start; not changed. Its dtype is the run's (float64 unless it is a float tensor).
    lr : float
        The learning rate η, above 0.
    steps : int
        The number of steps T.
    record : dict, optional
        What to measure: {"sharpness": every(10, top_eigenvalue), …}. A probe takes (problem, θ) and
        returns a number or an array; without `every` it is called at each step.
    keep : int, optional
        Keep θ at steps 0, keep, 2·keep, … in `run.checkpoints`.

    Returns
    -------
    Run
        Where the loss or θ stops being finite, θ leaves the problem's domain, or the user interrupts, the
        run ends there: everything before is in the record, and `stopped` says the step and the reason.

    Raises TypeError or ValueError for a learning rate that is not a finite number above 0, a θ0 of the
    wrong shape or with NaN, or a start outside the domain.

    A progress bar appears after a second.
    """
    lr, steps = _checks.positive("lr", lr), _checks.count("steps", steps)
    theta = _checks.tensor("theta0", problem.parameters(theta0)).clone()
    probes = {name: p if isinstance(p, _Every) else _Every(1, p) for name, p in (record or {}).items()}
    for name, probe in probes.items():
        if not callable(probe.probe):
            raise TypeError(f"record[{name!r}] must be a function of (problem, theta)")
    keep = _checks.count("keep", keep) if keep is not None else 0

    losses, kept, stopped = [], [], None
    measured = {name: [] for name in probes}
    t = 0
    try:
        for t in tqdm(range(steps + 1), desc="gd", unit="step", delay=1, leave=False):
            outside = problem.inside is not None and not problem.inside(theta)
            loss, gradient = problem.loss_and_grad(theta)
            if outside or not torch.isfinite(loss):
                why = "left the domain" if outside else f"diverged: the loss is {loss.item()}"
                stopped = f"{why} at step {t}"
                break
            due = {name: p.probe(problem, theta) for name, p in probes.items() if t % p.k == 0}
            last = theta
            losses.append(loss.item())
            for name, value in due.items():
                measured[name].append((t, np.asarray(value, dtype=np.float64)))
            if keep and t % keep == 0:
                kept.append((t, theta.double().cpu().numpy()))
            theta = theta - lr * gradient
    except KeyboardInterrupt:
        stopped = f"interrupted at step {t}"
    except FloatingPointError as error:  # a probe met a number too large, as the run diverged
        stopped = f"diverged: {error}, at step {t}"
    if not losses:
        raise ValueError(f"theta0 is no start: the run {stopped or 'has no step'}")

    records = {name: _series(pairs) for name, pairs in measured.items()}
    return Run(np.array(losses), last, lr, records, _series(kept), stopped)


def _series(pairs):
    return Series(np.array([t for t, _ in pairs], dtype=int), np.array([v for _, v in pairs]))
