"""Gradient descent, and the record of a run."""

from dataclasses import dataclass
from functools import partial
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

    loss : ndarray, shape (T + 1,): L(θ_t) for t = 0 … T; always finite. From `sgd` the batch's loss, shape (T,).
    theta : tensor, shape (dim,): θ_T.
    lr : float, or ndarray of shape (T,): the learning rate η, of each step where it was a schedule.
    records : dict: one `Series` a probe.
    checkpoints : `Series` of θ, shape (k, dim).
    stopped : None, or why and at which step the run ended before its time.
    batches : None, or from `sgd` the points of each step's batch, int, shape (T, b).
    """

    loss: np.ndarray
    theta: torch.Tensor
    lr: float | np.ndarray
    records: dict
    checkpoints: Series
    stopped: str | None
    batches: np.ndarray | None = None

    @property
    def steps(self):
        """0, 1, …, T, as an array of the shape of `loss`."""
        return np.arange(len(self.loss))

    @property
    def time(self):
        """The sum of the learning rates up to each θ_t, t = 0 … T: the time of the gradient flow. Shape (T + 1,)."""
        steps = len(self.loss) - (self.batches is None)
        return np.concatenate([[0.0], np.cumsum(np.broadcast_to(self.lr, steps))])

    def __getitem__(self, name):
        return self.records[_checks.choice("name", name, self.records)]


def every(k, probe):
    """A probe that is called at steps 0, k, 2k, … only."""
    return _Every(_checks.count("k", k), probe)


class _Every(NamedTuple):
    k: int
    probe: object


def on_batch(probe, after=False):
    """A probe of `sgd` that is called at each step as probe(problem, θ, batch), the batch as an array of points.

    θ is the step's own, θ_t, or with `after` what the step made of it, θ_t+1.
    """
    return _OnBatch(probe, after)


class _OnBatch(NamedTuple):
    probe: object
    after: bool


class _Recorder:
    """The probes of a run, what they measured, and the checkpoints."""

    def __init__(self, record, keep):
        probes = {name: p if isinstance(p, _Every | _OnBatch) else _Every(1, p) for name, p in (record or {}).items()}
        for name, probe in probes.items():
            if not callable(probe.probe):
                raise TypeError(f"record[{name!r}] must be a function of (problem, theta)")
        self.probes = {name: p for name, p in probes.items() if isinstance(p, _Every)}
        self.of_batch = {name: p for name, p in probes.items() if isinstance(p, _OnBatch)}
        self.keep = _checks.count("keep", keep) if keep is not None else 0
        self.measured, self.kept = {name: [] for name in probes}, []
        self.periods = [p.k for p in self.probes.values()] + ([self.keep] if self.keep else [])

    def at(self, t, problem, theta):
        """Call the probes that are due at step t; all of them, or, where one raises, none counts."""
        self._store(t, {name: p.probe(problem, theta) for name, p in self.probes.items() if t % p.k == 0})
        if self.keep and t % self.keep == 0:
            self.kept.append((t, theta.detach().double().cpu().numpy().copy()))

    def on_batch(self, t, problem, theta, batch, after):
        due = {name: p for name, p in self.of_batch.items() if p.after == after}
        self._store(t, {name: p.probe(problem, theta, batch) for name, p in due.items()})

    def _store(self, t, values):
        for name, value in values.items():
            self.measured[name].append((t, np.asarray(value, dtype=np.float64)))

    def series(self):
        return {name: _series(pairs) for name, pairs in self.measured.items()}, _series(self.kept)


def gd(problem, theta0, lr, steps, record=None, keep=None):
    """Gradient descent θ ← θ - η∇L(θ), with the loss of every step.

    Parameters
    ----------
    problem : Problem
    theta0 : array or tensor, shape (dim,)
        The start; not changed. Its dtype is the run's (float64 unless it is a float tensor).
    lr : float, or callable
        The learning rate η, above 0; or a schedule, a function of (t, problem, θ_t, L(θ_t)) that returns it:
        `cyclical`, `Catapults`, or one of your own.
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
    steps, recorder = _checks.count("steps", steps), _Recorder(record, keep)
    if recorder.of_batch:
        raise ValueError("on_batch probes are for sgd")
    theta = _checks.tensor("theta0", problem.parameters(theta0)).clone()
    rates = None
    if callable(lr):
        rates, longest = _Rates(lr), 1
        walk = rates.walk
    else:
        lr = _checks.positive("lr", lr)
        compiled = _two_layer.applies(problem) and theta.dtype == torch.float64
        walk, longest = (_two_layer.walk, 5000) if compiled else (_walk, 100)
    losses, stopped, t, last = [], None, 0, theta
    with tqdm(total=steps, desc="gd", unit="step", delay=1, leave=False) as bar:
        try:
            while t <= steps and stopped is None:
                stop = _next_stop(t, steps, longest, recorder.periods)
                walked, final, after = walk(problem, theta, lr, stop - t)
                if len(walked):
                    recorder.at(t, problem, theta)
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
        except _Enough:
            stopped = f"enough at step {t}"
    if not losses:
        raise ValueError(f"theta0 is no start: the run {stopped}")
    losses = np.concatenate(losses)
    lr = lr if rates is None else np.array(rates.used[: len(losses) - 1])
    return Run(losses, last, lr, *recorder.series(), stopped)


class _Rates:
    """Steps of gradient descent whose learning rates come from a schedule, and the rates used."""

    def __init__(self, schedule):
        self.schedule, self.used = schedule, []

    def walk(self, problem, theta, lr, steps):
        losses, last, after = _walk(problem, theta, lambda loss: self.next(problem, theta, loss), steps)
        return losses, last, after

    def next(self, problem, theta, loss):
        rate = _checks.positive("lr, from the schedule,", self.schedule(len(self.used), problem, theta, loss))
        self.used.append(rate)
        return rate


class _Enough(Exception):
    """Raised by a schedule to end a run."""


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
        last, theta = theta, theta - (lr(losses[-1]) if callable(lr) else lr) * gradient
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


OPTIMIZERS = {
    "sgd": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "nesterov": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "adam": torch.optim.Adam,
}
"""Names for `sgd`'s optimizer, each a function of (parameters, lr) from `torch.optim`, with its defaults."""


def sgd(
    fit, theta0, lr, steps, batch_size=None, record=None, keep=None, optimizer="sgd", seed=0, batches=None, until=None
):
    """Mini-batch training of a fit by an optimizer of `torch.optim`.

    Parameters
    ----------
    fit : Fit
    theta0 : array or tensor, shape (dim,)
    lr : float, or callable
        η, or a schedule of (t, fit, θ_t, loss of step t's batch), as in `gd`.
    steps : int
        T.
    batch_size : int, optional
        b: every epoch shuffles the points anew and cuts the order into batches of b; a rest is left out.
        The whole set unless given: with optimizer="sgd" this is gradient descent.
    record, keep
        As in `gd`, on the whole set at θ_0 … θ_T; `on_batch` marks a probe that is given each step's batch.
    optimizer : str or callable
        A name in `OPTIMIZERS`, or a function of (parameters, lr=η) that returns a `torch.optim.Optimizer`.
    seed : int
        Of the batches.
    batches : array of ints, shape (T or more, b), optional
        The batches themselves, for instance an earlier run's `batches[s:]` with its checkpoint θ_s: a step of
        plain SGD can be replayed so.
    until : callable, optional
        A function of (t, fit, θ_t, loss of step t's batch); the run ends before the first step where it is true.

    Returns
    -------
    Run, with `batches`. It ends early as `gd` does.
    """
    steps, recorder = _checks.count("steps", steps), _Recorder(record, keep)
    if batches is None:
        batches = _batches(len(fit), len(fit) if batch_size is None else batch_size, steps, seed)
    batches = np.asarray(batches)
    if batches.ndim != 2 or len(batches) < steps or not np.issubdtype(batches.dtype, np.integer):
        raise ValueError(f"batches must hold {steps} rows of point numbers, not shape {batches.shape}")
    if batches.min() < 0 or batches.max() >= len(fit):
        raise ValueError(f"batches name points from {batches.min()} to {batches.max()}; the fit has {len(fit)}")
    theta = _checks.tensor("theta0", fit.parameters(theta0)).clone().requires_grad_()
    if isinstance(optimizer, str):
        optimizer = OPTIMIZERS[_checks.choice("optimizer", optimizer, OPTIMIZERS)]
    torch_optimizer = optimizer([theta], lr=1.0 if callable(lr) else _checks.positive("lr", lr))
    whole = bool((batches[:steps] == np.arange(len(fit))).all()) if batches.shape[1] == len(fit) else False
    losses, rates, stopped, t = [], [], None, 0
    with tqdm(total=steps, desc="sgd", unit="step", delay=1, leave=False) as bar:
        try:
            for t in range(steps):
                at = theta.detach()
                batch = fit if whole else fit._batch(batches[t])
                loss, gradient = batch.loss_and_grad(at)
                if not torch.isfinite(loss):
                    stopped = f"diverged: the loss is {loss.item()} at step {t}"
                    break
                if until is not None and until(t, fit, at, loss.item()):
                    stopped = f"enough at step {t}"
                    break
                recorder.at(t, fit, at)
                recorder.on_batch(t, fit, at, batches[t], after=False)
                if callable(lr):
                    rate = _checks.positive("lr, from the schedule,", lr(t, fit, at, loss.item()))
                    torch_optimizer.param_groups[0]["lr"] = rate
                    rates.append(rate)
                losses.append(loss.item())
                theta.grad = gradient
                torch_optimizer.step()
                recorder.on_batch(t, fit, theta.detach(), batches[t], after=True)
                bar.update()
            else:
                recorder.at(steps, fit, theta.detach())
        except KeyboardInterrupt:
            stopped = f"interrupted at step {t}"
        except FloatingPointError as error:
            stopped = f"diverged: {error}, at step {t}"
    if not losses:
        raise ValueError(f"theta0 is no start: the run {stopped}")
    lr = np.array(rates[: len(losses)]) if callable(lr) else float(lr)
    return Run(np.array(losses), theta.detach(), lr, *recorder.series(), stopped, batches[: len(losses)])


def _batches(n, size, steps, seed):
    """(steps, size): every epoch a new order of the n points, cut into batches; the points in order for size n."""
    if _checks.count("batch_size", size) > n:
        raise ValueError(f"batch_size must be at most the number of points, {n}, not {size}")
    if size == n:
        return np.tile(np.arange(n), (steps, 1))
    rng, each = np.random.default_rng(seed), n // size
    epochs = [rng.permutation(n)[: each * size].reshape(each, size) for _ in range(-(-steps // each))]
    return np.concatenate(epochs)[:steps]


def gradient_flow(problem, theta0, steps, sharpness, largest=0.5, c=0.5, record=None, keep=None, until=None):
    """Near-exact gradient flow: Euler steps η_t = min(largest, c/λ1(θ_t)), stable where c < 2.

    Parameters
    ----------
    problem : Problem
    theta0 : array or tensor, shape (dim,)
    steps : int
        The most steps to take.
    sharpness : callable
        A probe that gives λ1(θ), or several eigenvalues, the largest first: `curvature.Tracker()`.
    largest, c : float
        *There is a Singularity in the Loss Landscape* takes c/λ1 to be a small part of the 2/λ1 at which
        descent would become unstable.
    record, keep
        As in `gd`.
    until : callable, optional
        A function of the losses and of the λ1 so far (lists); the run ends where it is true.

    Returns
    -------
    Run: `run["sharpness"]` holds what `sharpness` gave at every step, `run.time` the flow's time.
    """
    largest, c = _checks.positive("largest", largest), _checks.positive("c", c)
    losses, measured, tops = [], [], []

    def schedule(t, problem, theta, loss):
        losses.append(loss)
        measured.append(sharpness(problem, theta))
        tops.append(float(np.max(measured[-1])))
        if until is not None and until(losses, tops):
            raise _Enough
        return min(largest, c / tops[-1]) if tops[-1] > 0 else largest

    run = gd(problem, theta0, schedule, steps, record, keep)
    count = len(run.loss)
    run.records["sharpness"] = Series(np.arange(count), np.array(measured[:count]))
    return run


def cyclical(low, high, period):
    """A schedule that rises from `low` to `high` in half a period of steps and falls back (Smith 2017)."""
    low, high, period = _checks.positive("low", low), _checks.positive("high", high), _checks.count("period", period, 2)
    return lambda t, problem, theta, loss: low + (high - low) * (1 - abs(2 * (t % period) / period - 1))


class Catapults:
    """A schedule for `gd` that sets off a given number of catapults, one after another, and rests between them.

    At rest η = rest·η_crit, measured when the rest begins. A catapult sets η = factor·η_crit(θ_t). It is over when
    the loss has risen by the factor `peak`, has come back below where it began, and η lies below the
    η_crit that the catapult has raised; `cool` steps of rest follow at least. The next waits for them.

    Parameters
    ----------
    count : int: how many catapults; 0 for none.
    critical : callable: (problem, θ) ↦ η_crit, such as
        `lambda fit, theta: tangent.critical_learning_rate(fit, tangent.kernel(fit, theta))`.
    factor, rest, peak : float
    cool : int

    `started` and `ended` hold the steps at which each catapult began and was over.
    """

    def __init__(self, count, critical, factor=1.3, rest=0.5, peak=1.2, cool=30):
        self.count, self.critical = _checks.count("count", count, 0), critical
        self.factor, self.rest = _checks.positive("factor", factor), _checks.positive("rest", rest)
        self.peak, self.cool = _checks.positive("peak", peak), _checks.count("cool", cool, 0)
        self.started, self.ended, self._rate = [], [], None

    def __call__(self, t, problem, theta, loss):
        if self._rate is None:
            self._rate, self._since = self.rest * self.critical(problem, theta), 0
        if len(self.started) > len(self.ended):
            self._highest = max(self._highest, loss)
            if self._highest > self.peak * self._before and loss < self._before:
                critical = self.critical(problem, theta)
                if self._rate < critical:
                    self.ended.append(t)
                    self._rate, self._since = self.rest * critical, t
        elif len(self.started) < self.count and t - self._since >= self.cool:
            self._rate = self.factor * self.critical(problem, theta)
            self._before = self._highest = loss
            self.started.append(t)
        return self._rate
