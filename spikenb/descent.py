"""Gradient descent, and the record of a run."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from . import _checks, _two_layer


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

    compiled = _two_layer.applies(problem) and theta.dtype == torch.float64
    walk, longest = (_two_layer.walk, 5000) if compiled else (_walk, 100)
    losses, kept, stopped = [], [], None
    measured = {name: [] for name in probes}
    t, last = 0, theta
    with tqdm(total=steps, desc="gd", unit="step", delay=1, leave=False) as bar:
        try:
            while t <= steps and stopped is None:
                stop = _next_stop(t, steps, longest, [p.k for p in probes.values()] + ([keep] if keep else []))
                walked, final, after = walk(problem, theta, lr, stop - t)
                if len(walked):
                    due = {name: p.probe(problem, theta) for name, p in probes.items() if t % p.k == 0}
                    for name, value in due.items():
                        measured[name].append((t, np.asarray(value, dtype=np.float64)))
                    if keep and t % keep == 0:
                        kept.append((t, theta.double().cpu().numpy()))
                    losses.append(walked)
                    last = final
                t, theta = t + len(walked), after
                if t < stop:
                    outside = problem.inside is not None and not problem.inside(theta)
                    why = "left the domain" if outside else f"diverged: the loss is {problem.loss(theta).item()}"
                    stopped = f"{why} at step {t}"
                bar.update(len(walked))
        except KeyboardInterrupt:
            stopped = f"interrupted at step {t}"
        except FloatingPointError as error:  # a probe met a number too large, as the run diverged
            stopped = f"diverged: {error}, at step {t}"
    if not losses:
        raise ValueError(f"theta0 is no start: the run {stopped}")
    records = {name: _series(pairs) for name, pairs in measured.items()}
    return Run(np.concatenate(losses), last, lr, records, _series(kept), stopped)


def _walk(problem, theta, lr, steps):
    """The losses of up to `steps` steps, the θ of the last of them, and the θ after it; by autograd."""
    losses, last = [], theta
    for _ in range(steps):
        if problem.inside is not None and not problem.inside(theta):
            break
        loss, gradient = problem.loss_and_grad(theta)
        if not torch.isfinite(loss):
            break
        losses.append(loss.item())
        last, theta = theta, theta - lr * gradient
    return np.array(losses), last, theta


def _next_stop(t, steps, longest, periods):
    """The next step at which something is due. θ at step `steps` is the run's last, so it is a stop too."""
    if t == steps:
        return steps + 1
    return min(steps, t + longest, *((t // k + 1) * k for k in periods))


def gd_many(problem, theta0s, lrs, steps):
    """`gd` for many starts and learning rates, with the loss of every step; two-layer nets run on all cores.

    Parameters
    ----------
    problem : Problem
    theta0s : array or tensor, shape (k, dim)
    lrs : float, or array of shape (k,)
    steps : int

    Returns
    -------
    list of Run, one a start, without probes or checkpoints.
    """
    theta0s = _checks.array("theta0s", theta0s, 2)
    lrs = np.broadcast_to(np.asarray(lrs, dtype=float), len(theta0s)).copy()
    for lr in lrs:
        _checks.positive("lrs", float(lr))
    if not _two_layer.applies(problem):
        pairs = tqdm(list(zip(theta0s, lrs, strict=True)), desc="gd_many", unit="run", delay=1, leave=False)
        return [gd(problem, theta0, float(lr), steps) for theta0, lr in pairs]
    steps = _checks.count("steps", steps)
    for theta0 in theta0s:
        problem.parameters(theta0)
    losses, done, lasts, after = _two_layer.walk_many(problem, theta0s, lrs, steps + 1)
    runs = []
    for k, finite in enumerate(done):
        if not finite:
            raise ValueError(f"theta0s[{k}] is no start: its loss is {problem.loss(theta0s[k]).item()}")
        stopped = None
        if finite <= steps:
            stopped = f"diverged: the loss is {problem.loss(after[k]).item()} at step {finite}"
        empty = _series([])
        runs.append(Run(losses[k, :finite], torch.from_numpy(lasts[k]), float(lrs[k]), {}, empty, stopped))
    return runs


def _series(pairs):
    return Series(np.array([t for t, _ in pairs], dtype=int), np.array([v for _, v in pairs]))
