"""Problem and Fit against dense algebra and torch.func; what bad input raises."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikenb.networks import TwoLayer, normal
from spikenb.problem import LOSSES, Fit, Problem


def quadratic(seed, dim):
    rng = np.random.default_rng(seed)
    a = torch.from_numpy(rng.standard_normal((dim, dim)))
    a = a @ a.T
    return a, Problem(lambda t: t @ a @ t / 2, dim), torch.from_numpy(rng.standard_normal(dim)), rng


@given(st.integers(0, 100), st.integers(1, 6))
@settings(deadline=None, max_examples=25)
def test_quadratic_has_its_own_derivatives(seed, dim):
    a, problem, theta, rng = quadratic(seed, dim)
    v = torch.from_numpy(rng.standard_normal(dim))
    assert torch.allclose(problem.loss(theta), theta @ a @ theta / 2)
    assert torch.allclose(problem.grad(theta), a @ theta)
    assert torch.allclose(problem.hvp(theta, v), a @ v)
    assert torch.allclose(problem.hessian(theta), a)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_fit_agrees_with_torch_func(loss, activation):
    net = TwoLayer(4, activation)
    x, y = np.linspace(-2, 2, 7), np.sin(np.linspace(-2, 2, 7))
    fit, theta = Fit(net, x, y, loss), normal(net, seed=1)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    prefactor = {"mse": 1 / 7, "half_mse": 1 / 14, "half_sse": 1 / 2}[loss]

    def direct(t):
        return prefactor * ((net(t, tx) - ty) ** 2).sum()

    v, u = torch.from_numpy(np.random.default_rng(0).standard_normal((2, net.dim)))
    hessian = torch.func.hessian(direct)(theta)
    jacobian = torch.func.jacrev(lambda t: net(t, tx))(theta)
    assert torch.allclose(fit.loss(theta), direct(theta))
    assert torch.allclose(fit.grad(theta), torch.func.grad(direct)(theta))
    assert torch.allclose(fit.hvp(theta, v), hessian @ v)
    assert torch.allclose(fit.hessian(theta), hessian)
    assert torch.allclose(fit.jacobian(theta), jacobian)
    assert torch.allclose(fit.jvp(theta, v), jacobian @ v)
    assert torch.allclose(fit.vjp(theta, u[:7]), jacobian.T @ u[:7])
    assert torch.allclose(fit.residuals(theta), net(theta, tx) - ty)


def test_a_linear_loss_has_no_curvature():
    problem = Problem(lambda t: 3 * t[0], dim=2)
    assert problem.hessian([1.0, 2.0]).eq(0).all()
    assert problem.hvp([1.0, 2.0], [1.0, 1.0]).eq(0).all()
    assert problem.grad([1.0, 2.0]).tolist() == [3.0, 0.0]


def test_nothing_is_left_on_the_given_theta():
    theta = torch.ones(2, dtype=torch.float64)
    Problem(lambda t: (t**2).sum(), 2).grad(theta)
    assert not theta.requires_grad and theta.tolist() == [1.0, 1.0]


def test_float32_stays_float32():
    assert Problem(lambda t: (t**2).sum(), 2).grad(torch.ones(2)).dtype == torch.float32


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3).filter(lambda s: s != [2]))
def test_a_wrong_shape_names_theta(shape):
    with pytest.raises(ValueError, match="theta"):
        Problem(lambda t: (t**2).sum(), 2).loss(np.zeros(shape))


@pytest.mark.parametrize(
    "change, error, name",
    [
        (dict(x=[], y=[]), ValueError, "x is empty"),
        (dict(x=[1.0, np.nan], y=[1.0, 2.0]), ValueError, "x has NaN"),
        (dict(x=[1.0, 2.0], y=[1.0, np.inf]), ValueError, "y has NaN"),
        (dict(x=[1.0, 2.0], y=[1.0]), ValueError, "x and y"),
        (dict(loss="l2"), ValueError, "loss must be one of 'mse'"),
    ],
)
def test_bad_data_names_the_argument(change, error, name):
    arguments = dict(x=[1.0, 2.0], y=[1.0, 2.0], loss="mse") | change
    with pytest.raises(error, match=name):
        Fit(TwoLayer(2), **arguments)


def test_other_bad_input():
    with pytest.raises(TypeError, match="loss"):
        Problem("x**2", 1)
    with pytest.raises(ValueError, match="dim"):
        Problem(lambda t: t.sum(), 0)
    with pytest.raises(ValueError, match="loss must return"):
        Problem(lambda t: t, 2).loss([1.0, 2.0])
    with pytest.raises(ValueError, match="dim must be given"):
        Fit(lambda t, x: x @ t, np.eye(2), [1.0, 2.0])
    with pytest.raises(ValueError, match="model returns shape"):
        Fit(lambda t, x: t.sum(), np.eye(2), [1.0, 2.0], dim=2).loss([1.0, 2.0])
