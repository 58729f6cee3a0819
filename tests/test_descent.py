"""Gradient descent against the formula; records, divergence, interruption, bad input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikenb.curvature import top_eigenvalue
from spikenb.descent import every, gd
from spikenb.problem import Fit, Problem

parabola = Problem(lambda t: (t**2).sum() / 2, dim=1)


@given(st.floats(0.01, 3.0), st.floats(-2, 2).filter(lambda v: abs(v) > 1e-3))
@settings(deadline=None, max_examples=40)
def test_a_step_multiplies_by_one_minus_eta_lambda(eta, start):
    run = gd(parabola, [start], eta, 20, keep=1)
    expected = start * (1 - eta) ** np.arange(21)
    assert np.allclose(run.checkpoints.values[:, 0], expected, rtol=1e-10)
    assert np.allclose(run.loss, expected**2 / 2, rtol=1e-10)
    assert run.stopped is None and run.steps[-1] == 20


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(0, 4))
@settings(deadline=None, max_examples=40)
def test_linear_model_follows_its_kernel(seed, n, more):
    """S-lin: K positive definite, a start with a component on the top direction."""
    rng = np.random.default_rng(seed)
    phi, y = rng.standard_normal((n, n + more)) + 3 * np.eye(n, n + more), rng.standard_normal(n)
    values, vectors = np.linalg.eigh(phi @ phi.T)
    if values[0] < 1e-3 * values[-1] or abs(vectors[:, -1] @ y) < 1e-3 * np.linalg.norm(y):
        return
    model = Fit(lambda w, phi: phi @ w, phi, y, "half_sse", dim=n + more)
    for ratio in (0.5, 0.95, 1.05, 1.5):
        lr = ratio * 2 / values[-1]
        run = gd(model, np.zeros(n + more), lr, 60, record={"r": lambda p, w: p.residuals(w)})
        r = run["r"].values
        step = np.eye(n) - lr * phi @ phi.T
        expected = np.array([np.linalg.matrix_power(step, t) @ r[0] for t in range(61)])
        assert np.allclose(r, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())
        size, top = np.linalg.norm(r, axis=1), abs(r @ vectors[:, -1])
        if ratio < 1:
            assert (np.diff(size) < 1e-12 * size[0]).all()
        else:
            assert np.allclose(top[1:] / top[:-1], 2 * ratio - 1) and top[-1] > top[0]


def test_probes_are_recorded_at_their_steps():
    run = gd(parabola, [1.0], 0.1, 10, record={"a": every(4, top_eigenvalue), "b": lambda p, t: t}, keep=5)
    assert run["a"].steps.tolist() == [0, 4, 8] and np.allclose(run["a"].values, 1)
    assert run["b"].values.shape == (11, 1)
    assert run.checkpoints.steps.tolist() == [0, 5, 10]
    assert run.theta.item() == pytest.approx(0.9**10)
    with pytest.raises(ValueError, match="name must be one of 'a', 'b'"):
        run["c"]


def test_a_diverging_run_keeps_its_record():
    run = gd(Problem(lambda t: (t**4).sum(), 1), [2.0], 1.0, 50, record={"t": lambda p, t: t})
    assert run.stopped.startswith("diverged: the loss is") and f"step {len(run.loss)}" in run.stopped
    assert np.isfinite(run.loss).all() and len(run["t"].values) == len(run.loss)


def test_a_probe_that_overflows_ends_the_run_with_its_record():
    """The loss is still finite where its Hessian no longer is."""

    def overflows(problem, theta):
        return top_eigenvalue(Problem(lambda t: (1e160 * t**2).sum() ** 2, 1), theta)

    run = gd(Problem(lambda t: -t.sum(), 1), [0.0], 0.5, 10, record={"sharpness": overflows})
    assert run.stopped.startswith("diverged: theta gives a Hessian") and run.stopped.endswith("at step 1")
    assert len(run.loss) == 1 == len(run["sharpness"].values)


def test_leaving_the_domain_ends_the_run():
    run = gd(Problem(lambda t: t.sum(), 1, inside=lambda t: t[0] > 0), [1.0], 0.4, 10)
    assert run.stopped == "left the domain at step 3" and run.theta.item() == pytest.approx(0.2)


def test_an_interrupted_run_keeps_what_it_has():
    def stop(problem, theta):
        if theta.item() < 0.5:
            raise KeyboardInterrupt
        return theta

    run = gd(parabola, [1.0], 0.1, 100, record={"t": stop})
    assert run.stopped == "interrupted at step 7" and len(run.loss) == 7 == len(run["t"].values)


@given(st.one_of(st.floats(max_value=0), st.just(float("nan")), st.just(float("inf"))))
def test_an_absurd_learning_rate_is_named(lr):
    with pytest.raises(ValueError, match="lr must be a finite number above 0"):
        gd(parabola, [1.0], lr, 10)


def test_an_enormous_learning_rate_diverges_with_a_reason():
    run = gd(parabola, [1.0], 1e300, 10)
    assert len(run.loss) == 1 and run.stopped == "diverged: the loss is inf at step 1"


@pytest.mark.parametrize(
    "change, error, name",
    [
        (dict(lr="fast"), TypeError, "lr"),
        (dict(steps=0), ValueError, "steps"),
        (dict(steps=2.5), TypeError, "steps"),
        (dict(theta0=[1.0, 2.0]), ValueError, "theta must have shape"),
        (dict(theta0=[float("nan")]), ValueError, "theta0"),
        (dict(theta0=[[1.0]]), ValueError, "theta"),
        (dict(keep=0), ValueError, "keep"),
        (dict(record={"x": 3}), TypeError, "record"),
    ],
)
def test_bad_input_names_the_argument(change, error, name):
    arguments = dict(problem=parabola, theta0=[1.0], lr=0.1, steps=3) | change
    with pytest.raises(error, match=name):
        gd(**arguments)


def test_a_start_outside_the_domain_is_an_error():
    with pytest.raises(ValueError, match="theta0 is no start: the run left the domain at step 0"):
        gd(Problem(lambda t: t.sum(), 1, inside=lambda t: False), [1.0], 0.1, 3)


def test_the_start_is_not_changed():
    theta = torch.ones(1).double()
    gd(parabola, theta, 0.1, 3)
    assert theta.item() == 1.0
