"""The compiled two-layer descent against autograd, its closed-form Hessian, its NumPy twin, its speed."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikenb import _two_layer, data, descent, networks
from spikenb.curvature import top_eigenvalue
from spikenb.descent import every, gd, gd_many
from spikenb.problem import LOSSES, Fit, Problem

nets = st.tuples(
    st.integers(1, 40),
    st.sampled_from(["tanh", "relu"]),
    st.integers(2, 60),
    st.sampled_from(list(LOSSES)),
    st.integers(0, 999),
)


def problem_of(width, activation, n, loss, seed):
    rng = np.random.default_rng(seed)
    net = networks.TwoLayer(width, activation)
    fit = Fit(net, rng.uniform(-3, 3, n), rng.standard_normal(n), loss)
    theta = networks.normal(net, seed=seed)
    return fit, theta, 0.01 / max(top_eigenvalue(fit, theta), 1.0)


@given(nets)
@settings(deadline=None, max_examples=25)
def test_it_is_autograds_descent(parts):
    """To 1e-12, relative, over 1,000 steps well below the edge of stability."""
    fit, theta, lr = problem_of(*parts)
    run = gd(fit, theta, lr, 999)
    losses, last, _ = descent._walk(fit, theta, lr, 1000)
    assert _two_layer.applies(fit)
    assert np.abs(run.loss - losses).max() <= 1e-12 * losses.max()
    assert (run.theta - last).norm() <= 1e-12 * last.norm()


@given(nets)
@settings(deadline=None, max_examples=25)
def test_numpy_takes_the_same_steps(parts):
    fit, theta, lr = problem_of(*parts)
    ours, compiled = theta.numpy().copy(), gd(fit, theta, lr, 200)
    losses, last = np.empty(201), np.empty_like(ours)
    x, y = fit.x.numpy(), fit.y.numpy()
    done = _two_layer._numpy(ours, last, losses, lr, fit.prefactor, x, y, len(x), parts[1] == "relu")
    assert done == 201 and np.abs(losses - compiled.loss).max() <= 1e-12 * losses.max()
    assert np.allclose(last, compiled.theta, rtol=1e-11, atol=1e-12)


@given(nets)
@settings(deadline=None, max_examples=25)
def test_the_closed_form_hessian_is_autograds(parts):
    fit, theta, _ = problem_of(*parts)
    dense = fit.hessian(theta)
    assert (_two_layer.hessian(fit, theta) - dense).abs().max() <= 1e-12 * dense.abs().max()


def test_tanh_is_accurate_to_a_few_ulp():
    numba = pytest.importorskip("numba")
    from spikenb._two_layer_numba import _tanh

    @numba.njit
    def apply(x, out):
        for i in range(len(x)):
            out[i] = _tanh(x[i])

    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-20, 20, 200_000), np.logspace(-300, 2, 50_000), -np.logspace(-20, 1, 50_000)])
    out = np.empty_like(x)
    apply(x, out)
    exact = np.tanh(x.astype(np.longdouble)).astype(float)
    assert (np.abs(out - exact) / np.spacing(np.abs(exact))).max() <= 4
    special, out = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e300]), np.empty(6)
    apply(special, out)
    assert np.array_equal(out, np.tanh(special), equal_nan=True) and np.signbit(out[1])


def setting_b(seed=0):
    net = networks.TwoLayer(20)
    return Fit(net, *data.grid("sin x + sin 4x", -2.7, 2.7, 40)), networks.normal(net, seed=seed)


def test_records_checkpoints_and_length_do_not_change_a_run():
    fit, theta = setting_b()
    plain = gd(fit, theta, 0.05, 1203)
    busy = gd(fit, theta, 0.05, 1203, record={"l": every(7, top_eigenvalue)}, keep=50)
    assert np.array_equal(plain.loss, busy.loss) and plain.theta.equal(busy.theta)
    assert len(plain.loss) == 1204 and busy["l"].steps[-1] == 1197 and len(busy.checkpoints.steps) == 25
    again = gd(fit, busy.checkpoints.values[10], 0.05, 100)
    assert np.array_equal(again.loss, plain.loss[500:601])
    assert fit.loss(plain.theta).item() == pytest.approx(plain.loss[-1], rel=1e-12)


def test_divergence_keeps_the_record_and_the_last_finite_theta():
    fit, theta = setting_b()
    run = gd(fit, theta, 50.0, 1000, keep=1)
    assert run.stopped.startswith("diverged: the loss is") and f"at step {len(run.loss)}" in run.stopped
    assert np.isfinite(run.loss).all() and fit.loss(run.theta).item() == pytest.approx(run.loss[-1])
    assert len(run.checkpoints.steps) == len(run.loss)


def test_many_runs_are_the_single_ones():
    fit, _ = setting_b()
    starts = torch.stack([networks.normal(fit.model, seed=s) for s in range(5)])
    lrs = np.array([0.01, 0.02, 0.05, 0.08, 50.0])
    for k, run in enumerate(gd_many(fit, starts, lrs, 300)):
        single = gd(fit, starts[k], lrs[k], 300)
        assert np.array_equal(run.loss, single.loss) and run.theta.equal(single.theta)
        assert run.stopped == single.stopped and run.lr == lrs[k]


def test_many_runs_of_any_problem():
    problem = Problem(lambda t: (t**2).sum() / 2, 2)
    runs = gd_many(problem, np.ones((3, 2)), [0.1, 0.2, 0.3], 5)
    assert [run.loss[-1] for run in runs] == pytest.approx([(1 - lr) ** 10 for lr in (0.1, 0.2, 0.3)])


@pytest.mark.parametrize(
    "starts, lrs, name",
    [
        (np.zeros(61), 0.1, "theta0s must have 2"),
        (np.full((2, 61), np.nan), 0.1, "theta0s has NaN"),
        (np.zeros((2, 60)), 0.1, "theta must have shape"),
        (np.zeros((2, 61)), -0.1, "lrs"),
        (np.zeros((2, 61)), [0.1, 0.1, 0.1], "broadcast"),
    ],
)
def test_bad_input_to_many(starts, lrs, name):
    with pytest.raises(ValueError, match=name):
        gd_many(setting_b()[0], starts, lrs, 10)


def test_what_the_compiled_path_leaves_to_autograd():
    x, y = np.linspace(-1, 1, 5), np.zeros(5)
    others = [
        Fit(networks.TwoLayer(3, bias=False), x, y),
        Fit(networks.TwoLayer(3, parametrisation="ntk"), x, y),
        Fit(networks.TwoLayer(3, inputs=2), np.ones((5, 2)), y),
        Fit(networks.TwoLayer(3), torch.ones(5), torch.ones(5)),
        Problem(lambda t: t.sum(), 3),
    ]
    assert not any(map(_two_layer.applies, others))


def test_without_numba_it_runs_and_says_so():
    code = """
import sys, warnings
sys.modules["numba"] = None
from spikenb import data, networks
from spikenb.descent import gd
from spikenb.problem import Fit
net = networks.TwoLayer(5)
fit = Fit(net, *data.grid("two relus", -1, 1, 9))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    run = gd(fit, networks.normal(net), 0.05, 100)
assert "numba is not installed" in str(said[0].message), said
print(len(run.loss))
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "101"


def test_an_interact_callback_is_quick():
    fit, theta = setting_b()
    gd(fit, theta, 0.05, 10)
    start = time.perf_counter()
    gd(fit, theta, 0.05, 20_000, record={"l": every(200, top_eigenvalue)})
    assert time.perf_counter() - start < 0.6  # twice the budget


def test_the_first_use_compiles_in_seconds_and_the_next_reads_a_cache(tmp_path):
    pytest.importorskip("numba")
    code = """
import time
from spikenb import data, networks
from spikenb.descent import gd
from spikenb.problem import Fit
net = networks.TwoLayer(20)
fit = Fit(net, *data.grid("two relus", -1, 1, 40))
start = time.perf_counter()
gd(fit, networks.normal(net), 0.05, 10)
print(time.perf_counter() - start)
"""
    import os

    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        float(subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)) for _ in range(2)
    )
    assert first < 10 and second < first / 2  # twice the budget
