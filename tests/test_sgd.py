"""Mini-batch descent against loops written out, replays, schedules, and the gradient flow."""

import numpy as np
import pytest
import torch

from spikenb import data, networks, tangent
from spikenb.curvature import Tracker, spectrum, top_eigenvalue
from spikenb.descent import OPTIMIZERS, Catapults, cyclical, every, gd, gradient_flow, on_batch, sgd
from spikenb.problem import Fit, Problem

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.fixture
def fit():
    x, y = data.gaussian("rank-2", 12, 4)
    return Fit(networks.fcn(4, 8, 2, activation="tanh"), x, y)


@pytest.fixture
def theta(fit):
    return networks.ntk(fit.model)


def loss(fit, theta):
    return fit.loss(theta)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("device", DEVICES)
def test_every_optimizer_is_torchs_own_loop(fit, theta, name, device):
    fit, theta = fit.to(device), theta.to(device)
    run = sgd(fit, theta, 0.01, 15, batch_size=5, optimizer=name, seed=3)
    parameter = theta.clone().requires_grad_()
    optimizer = OPTIMIZERS[name]([parameter], lr=0.01)
    losses = []
    for index in run.batches:
        optimizer.zero_grad()
        value = ((fit.model(parameter, fit.x[index]) - fit.y[index]) ** 2).mean()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert np.allclose(run.loss, losses) and torch.allclose(run.theta, parameter.detach())
    assert run.stopped is None and run.lr == 0.01


def test_batches_shuffle_every_epoch(fit, theta):
    run = sgd(fit, theta, 0.01, 9, batch_size=4)
    assert run.batches.shape == (9, 4)
    for epoch in run.batches.reshape(3, 12):
        assert sorted(epoch) == list(range(12))
    assert not (run.batches[:3] == run.batches[3:6]).all()
    again, other = (sgd(fit, theta, 0.01, 9, batch_size=4, seed=s).batches for s in (0, 1))
    assert (again == run.batches).all() and not (other == run.batches).all()
    left_out = sgd(fit, theta, 0.01, 4, batch_size=5).batches
    assert len(np.unique(left_out[:2])) == 10


def test_full_batch_sgd_is_gradient_descent(fit, theta):
    stochastic, plain = sgd(fit, theta, 0.05, 20, record={"loss": loss}), gd(fit, theta, 0.05, 20)
    assert np.allclose(stochastic["loss"].values, plain.loss)
    assert np.allclose(stochastic.loss, plain.loss[:-1]) and torch.allclose(stochastic.theta, plain.theta)


def test_a_step_can_be_replayed(fit, theta):
    run = sgd(fit, theta, 0.05, 20, batch_size=3, keep=5)
    start = run.checkpoints.values[list(run.checkpoints.steps).index(10)]
    replay = sgd(fit, start, 0.05, 10, batches=run.batches[10:])
    assert (replay.loss == run.loss[10:]).all() and torch.equal(replay.theta, run.theta)


def test_probes_of_the_whole_set_and_of_the_batch(fit, theta):
    def of_batch(problem, theta, index):
        return problem.batch(index).loss(theta)

    record = {"whole": every(5, loss), "before": on_batch(of_batch), "after": on_batch(of_batch, after=True)}
    run = sgd(fit, theta, 0.05, 12, batch_size=4, record=record, keep=1)
    assert list(run["whole"].steps) == [0, 5, 10]
    assert np.allclose(run["before"].values, run.loss)
    after = [of_batch(fit, run.checkpoints.values[t + 1], run.batches[t]) for t in range(12)]
    assert np.allclose(run["after"].values, after)
    with pytest.raises(ValueError, match="on_batch probes are for sgd"):
        gd(fit, theta, 0.05, 3, record={"x": on_batch(of_batch)})


def test_a_diverging_run_keeps_its_record(fit, theta):
    run = sgd(fit, theta, 1e6, 200, batch_size=4, record={"loss": loss})
    assert "diverged" in run.stopped and 0 < len(run.loss) < 200 and np.isfinite(run.loss).all()
    assert len(run.batches) == len(run.loss)
    flow = gradient_flow(fit, theta, 50, Tracker(), largest=1e6, c=1e6)
    assert "diverged" in flow.stopped and len(flow["sharpness"].values) == len(flow.loss)


def test_interrupts_and_ends(fit, theta):
    def stop(t, problem, theta, loss):
        if t == 4:
            raise KeyboardInterrupt
        return 0.01

    for train in (lambda: sgd(fit, theta, stop, 9, batch_size=3), lambda: gd(fit, theta, stop, 9)):
        run = train()
        assert run.stopped == "interrupted at step 4" and len(run.loss) in (4, 5)
    run = sgd(fit, theta, 0.01, 9, until=lambda t, problem, theta, loss: t == 6)
    assert run.stopped == "enough at step 6" and len(run.loss) == 6


def test_schedules(fit, theta):
    run = gd(fit, theta, lambda t, problem, theta, loss: 0.01 * (t + 1), 5)
    by_hand = theta.clone()
    for t in range(5):
        by_hand = by_hand - 0.01 * (t + 1) * fit.grad(by_hand)
    assert torch.allclose(run.theta, by_hand) and np.allclose(run.lr, 0.01 * np.arange(1, 6))
    assert np.allclose(run.time, np.concatenate([[0], np.cumsum(run.lr)])) and len(run.time) == len(run.loss)
    rates = [cyclical(0.1, 0.5, 4)(t, None, None, None) for t in range(9)]
    assert np.allclose(rates, [0.1, 0.3, 0.5, 0.3, 0.1, 0.3, 0.5, 0.3, 0.1])
    stochastic = sgd(fit, theta, cyclical(0.01, 0.02, 4), 6, batch_size=3)
    assert np.allclose(stochastic.lr, rates_of(cyclical(0.01, 0.02, 4), 6)) and len(stochastic.time) == 7
    with pytest.raises(ValueError, match="from the schedule"):
        gd(fit, theta, lambda *_: -1.0, 3)


def rates_of(schedule, steps):
    return [schedule(t, None, None, None) for t in range(steps)]


def test_gradient_flow_follows_the_exact_solution():
    """On a quadratic the flow is θ(t) = exp(-Ht)θ(0); halving c halves the error."""
    h = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)
    problem, start = Problem(lambda theta: (h * theta**2).sum() / 2, 3), torch.ones(3, dtype=torch.float64)
    errors = []
    for c in (0.1, 0.05):
        run = gradient_flow(problem, start, 200, lambda problem, theta: 4.0, largest=9.0, c=c)
        assert np.allclose(run.lr, c / 4) and np.isclose(run.time[-1], 200 * c / 4)
        errors.append((run.theta - torch.exp(-h * run.time[-1])).abs().max().item())
    assert errors[1] < 0.02
    capped = gradient_flow(problem, start, 5, lambda problem, theta: 0.0, largest=0.125)
    assert (capped.lr == 0.125).all()


def test_gradient_flow_takes_its_steps_from_the_sharpness(fit, theta):
    run = gradient_flow(fit, theta, 40, Tracker(), largest=0.3, c=0.2, keep=1)
    tops = [spectrum(fit, t).values[0] for t in run.checkpoints.values]
    assert np.allclose(run["sharpness"].values, tops, rtol=1e-3)
    assert np.allclose(run.lr, np.minimum(0.3, 0.2 / np.array(tops[:-1])), rtol=1e-3)
    ended = gradient_flow(fit, theta, 40, Tracker(), until=lambda losses, tops: len(losses) > 7)
    assert ended.stopped.startswith("enough") and len(ended.loss) == len(ended["sharpness"].values) == 7


@pytest.mark.parametrize("count", [0, 1, 2])
def test_catapults_fire_as_often_as_asked(count):
    """Rank-2 on 200 points: each catapult raises the loss, and the kernel's norm is lower after it."""
    x, y = data.gaussian("rank-2", 200, 20)
    fit = Fit(networks.fcn(20, 256, 2), x.float(), y.float())

    def critical(fit, theta):
        return tangent.critical_learning_rate(fit, tangent.kernel(fit, theta))

    schedule = Catapults(count, critical)
    run = gd(fit, networks.ntk(fit.model).float(), schedule, 250, record={"critical": every(50, critical)})
    assert run.stopped is None and len(schedule.started) == len(schedule.ended) == count
    for start, end in zip(schedule.started, schedule.ended, strict=True):
        assert run.loss[start : end + 1].max() > 1.2 * run.loss[start]
        assert run.lr[end] < run.lr[start] * 1.2
    if count:
        assert run["critical"].values[-1] > 1.1 * run["critical"].values[0]
        assert all(b - a >= 30 for a, b in zip(schedule.ended, schedule.started[1:], strict=False))


def test_clear_errors(fit, theta):
    for call, error, message in (
        (lambda: sgd(fit, theta, 0.1, 5, batch_size=13), ValueError, "batch_size must be at most the number of points"),
        (lambda: sgd(fit, theta, 0.1, 5, optimizer="lion"), ValueError, "optimizer must be one of"),
        (lambda: sgd(fit, theta, 0.1, 5, batches=[[0, 1]]), ValueError, "batches must hold 5 rows"),
        (lambda: sgd(fit, theta, 0.1, 1, batches=[[0, 99]]), ValueError, "batches name points from 0 to 99"),
        (lambda: sgd(fit, theta, -0.1, 5), ValueError, "lr must be a finite number above 0"),
        (lambda: sgd(fit, theta * np.nan, 0.1, 5), ValueError, "theta0 has NaN"),
        (lambda: gradient_flow(fit, theta, 5, Tracker(), c=0), ValueError, "c must be"),
        (lambda: cyclical(0.1, 0.2, 1), ValueError, "period must be at least 2"),
        (lambda: Catapults(-1, top_eigenvalue), ValueError, "count must be at least 0"),
    ):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.skipif(len(DEVICES) == 1, reason="no GPU here; the CPU's own results are tested above")
def test_a_run_is_the_same_on_the_gpu(fit, theta):
    here, there = sgd(fit, theta, 0.02, 30, batch_size=4), sgd(fit.to("cuda"), theta.cuda(), 0.02, 30, batch_size=4)
    assert np.allclose(here.loss, there.loss, rtol=1e-9)
