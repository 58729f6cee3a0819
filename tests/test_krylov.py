"""Top eigenpairs without the matrix, against dense algebra in float64."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spikenb import networks
from spikenb.curvature import Tracker, critical_learning_rate, lanczos, spectrum, top_eigenpairs, top_eigenvalue
from spikenb.descent import every, gd
from spikenb.problem import Fit, Problem

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def symmetric(values, seed=0):
    """A matrix with these eigenvalues and random eigenvectors."""
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))[0]
    return torch.from_numpy(q * np.asarray(values, dtype=float) @ q.T)


def diagonal(values):
    """A quadratic problem with this diagonal Hessian."""
    values = torch.as_tensor(values, dtype=torch.float64)
    return Problem(lambda theta: (values * theta**2).sum() / 2, len(values))


def net_fit(device="cpu", dtype=torch.float64, loss="mse", chunk=None, activation="tanh", n=12):
    torch.manual_seed(1)
    net = networks.fcn(5, 12, 3, 3, activation, bias=True)
    x = torch.randn(n, 5, dtype=torch.float64)
    y = torch.randint(0, 3, (n,)) if loss == "cross_entropy" else torch.randn(n, 3, dtype=torch.float64)
    fit = Fit(net, x, y, loss, chunk=chunk).to(device, dtype)
    return fit, networks.ntk(net, seed=2).to(device, dtype)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.sampled_from([-3.0, -1.0, 0.0, 0.5, 1.0, 1.0, 2.0, 5.0, 5.001]), min_size=1, max_size=20),
    k=st.integers(1, 20),
    seed=st.integers(0, 100),
)
@example([-3.0] * 6 + [5.0, 5.0, 5.001, 5.001], 3, 0)  # a second copy that no other pair's residual reaches
def test_lanczos_finds_the_top_of_any_spectrum(values, k, seed):
    k = min(k, len(values))
    matrix = symmetric(values, seed)
    start = torch.from_numpy(np.random.default_rng(seed + 1).standard_normal((len(values), k)))
    pairs = lanczos(lambda v: matrix @ v, start, k, tol=1e-10)
    scale = max(abs(v) for v in values) or 1.0
    assert np.allclose(pairs.values, sorted(values, reverse=True)[:k], atol=1e-6 * scale)
    assert torch.allclose(pairs.vectors.T @ pairs.vectors, torch.eye(k, dtype=torch.float64), atol=1e-8)
    true_residuals = (matrix @ pairs.vectors - pairs.vectors * torch.from_numpy(pairs.values)).norm(dim=0)
    assert np.allclose(pairs.residuals, true_residuals, atol=1e-6 * scale)
    assert pairs.products <= len(values)


def test_angles_are_those_of_the_true_vectors_or_larger():
    values = np.concatenate([[10.0, 9.5, 6.0], np.linspace(0, 5, 60)])
    matrix = symmetric(values)
    true = torch.linalg.eigh(matrix)[1].flip(1)
    start = torch.from_numpy(np.random.default_rng(0).standard_normal(63))
    for products in range(8, 40, 4):
        pairs = lanczos(lambda v: matrix @ v, start, 2, tol=1e-14, most=products)
        if pairs.angles.max() < 0.5:
            actual = torch.arccos((pairs.vectors * true[:, :2]).sum(0).abs().clamp(max=1)).numpy()
            assert (actual <= 1.5 * pairs.angles + 1e-7).all(), (products, actual, pairs.angles)


def test_a_tiny_residual_with_a_tiny_gap_is_not_trusted():
    matrix = symmetric([5, 5 - 1e-9, *np.linspace(0, 3, 30)])
    start = torch.from_numpy(np.random.default_rng(0).standard_normal(32))
    pairs = lanczos(lambda v: matrix @ v, start, tol=1e-6)
    assert pairs.residuals[0] < 1e-2 and abs(pairs.values[0] - 5) < 1e-5
    two = lanczos(lambda v: matrix @ v, start, 2, tol=1e-6)
    assert not two.trusted.any() and two.gaps.max() < 1e-3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("loss", ["mse", "half_sse", "cross_entropy"])
def test_top_eigenpairs_of_a_network(device, loss):
    fit, theta = net_fit(device, loss=loss)
    dense = torch.linalg.eigvalsh(fit.hessian(theta)).flip(0).cpu().numpy()
    for options in ({}, {"how": "forward"}):
        pairs = top_eigenpairs(fit, theta, 3, tol=1e-9, **options)
        assert np.allclose(pairs.values, dense[:3], rtol=1e-6)
    assert np.allclose(spectrum(fit, theta).values, dense, atol=1e-8)
    assert np.isclose(top_eigenvalue(fit, theta), dense[0], rtol=1e-3)
    assert np.isclose(critical_learning_rate(fit, theta), 2 / dense[0], rtol=1e-3)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("chunk", [1, 5, 12, 40])
def test_chunks_of_data_change_nothing(loss, chunk):
    whole, theta = net_fit(loss=loss)
    parts, _ = net_fit(loss=loss, chunk=chunk)
    v = torch.randn_like(theta)
    assert torch.isclose(whole.loss(theta), parts.loss(theta))
    assert torch.allclose(whole.grad(theta), parts.grad(theta))
    assert torch.allclose(whole.hessian(theta), parts.hessian(theta))
    for how in ("reverse", "forward"):
        assert torch.allclose(whole.hvp(theta, v), parts.hessian_operator(theta, how)(v))
    assert torch.allclose(whole.outputs(theta), parts.outputs(theta))
    assert torch.allclose(whole.jvp(theta, v), parts.jvp(theta, v))
    assert torch.allclose(whole.vjp(theta, whole.residuals(theta)), parts.vjp(theta, whole.residuals(theta)))


def test_finite_differences_agree_on_smooth_nets_and_count_the_kinks_on_relu_nets():
    errors = {}
    for activation in ("tanh", "relu"):
        fit, theta = net_fit(activation=activation, n=2000)
        v = torch.from_numpy(np.random.default_rng(0).standard_normal(fit.dim))
        exact = fit.hvp(theta, v)
        different = fit.hessian_operator(theta, "difference", 0.03)(v)
        errors[activation] = ((different - exact).norm() / exact.norm()).item()
    assert errors["tanh"] < 1e-2
    assert errors["relu"] > 0.05
    with pytest.raises(ValueError, match="step is for how"):
        fit.hessian_operator(theta, "reverse", 1e-3)
    with pytest.raises(ValueError, match="how must be one of"):
        fit.hessian_operator(theta, "guess")


def test_tracker_follows_a_top_pair_that_crosses():
    """Where a one-dimensional space keeps the old vector, with a residual of zero, and is wrong without a sign."""
    others = np.linspace(0, 2, 40)
    tracker, theta = Tracker(tol=1e-4), torch.zeros(42, dtype=torch.float64)
    fooled = torch.zeros(42, dtype=torch.float64)
    fooled[0] = 1
    for t in np.linspace(0, 1, 40):
        values = np.concatenate([[10 - 5 * t, 4 + 5 * t], others])
        problem = diagonal(values)
        assert np.isclose(tracker(problem, theta), values.max(), rtol=1e-3), t
        alone = lanczos(problem.hessian_operator(theta), fooled, most=1)
    assert alone.residuals[0] == 0 and alone.values[0] == 5  # the control: the truth is 9
    assert tracker.products / tracker.calls <= 3


def test_tracker_finds_a_direction_that_rises_from_nothing():
    tracker, theta, late = Tracker(refresh=25), torch.zeros(60, dtype=torch.float64), []
    for t in range(100):
        values = np.concatenate([[8.0, 5.0], np.linspace(0, 2, 57), [0.16 * t]])
        late.append(not np.isclose(tracker(diagonal(values), theta), values.max(), rtol=1e-2))
    assert sum(late) <= 25 and not late[-1]


def turning(values, angle):
    """A quadratic problem with these eigenvalues, the first two's vectors turned in their plane."""
    values, c, s = torch.tensor(values, dtype=torch.float64), np.cos(angle), np.sin(angle)

    def loss(theta):
        turned = torch.stack([c * theta[0] + s * theta[1], c * theta[1] - s * theta[0]])
        return (values * torch.cat([turned, theta[2:]]) ** 2).sum() / 2

    return Problem(loss, len(values))


@pytest.mark.parametrize("k", [1, 2])
def test_tracker_knows_that_a_turning_pair_is_nearly_degenerate(k):
    """λ2 is half a percent below λ1; a first eigenvector that turns meets the guard, which must not be lost."""
    values = [22, 21.9, 14, *np.linspace(-2, 8, 60)]
    tracker, theta, late = Tracker(k), torch.zeros(63, dtype=torch.float64), []
    for t in range(100):
        assert np.isclose(np.atleast_1d(tracker(turning(values, 0.1 * t), theta))[0], 22, rtol=5e-3)
        overlap = tracker.pairs.vectors[:2, 0] @ torch.tensor([np.cos(0.1 * t), np.sin(0.1 * t)]).double()
        honest = torch.arccos(overlap.abs().clamp(max=1)) <= 2 * tracker.pairs.angles[0] + 0.02
        late.append(not honest or tracker.pairs.gaps[0] > 0.3)
    assert not any(late[35:])  # the first refresh, at step 25, finds λ2 where the start did not
    assert tracker.products / tracker.calls <= 2 + k


@pytest.mark.parametrize("k", [1, 2])
def test_tracker_along_a_run(k):
    fit, theta = net_fit()
    dense = lambda problem, theta: torch.linalg.eigvalsh(problem.hessian(theta)).flip(0)[:k].numpy()  # noqa: E731
    tracker = Tracker(k)
    run = gd(fit, theta, 0.02, 60, record={"top": tracker, "dense": every(1, dense)})
    error = np.abs(run["top"].values.reshape(-1, k) - run["dense"].values) / run["dense"].values[:, :1]
    assert error.max() <= 1e-3
    assert tracker.products / tracker.calls <= 2 + k


def test_tracker_takes_the_closed_form_where_there_is_one():
    net = networks.TwoLayer(6)
    fit, theta = Fit(net, np.linspace(-1, 1, 9), np.linspace(0, 1, 9)), networks.normal(net)
    tracker = Tracker(2)
    assert np.allclose(tracker(fit, theta), spectrum(fit, theta).values[:2], rtol=1e-12)
    assert tracker.products == 0 and tracker.pairs.trusted.all()


def test_clear_errors():
    problem, theta = diagonal([1.0, 2.0]), torch.zeros(2, dtype=torch.float64)
    with pytest.raises(ValueError, match="k must be at most the dimension, 2, not 3"):
        top_eigenpairs(problem, theta, 3)
    with pytest.raises(ValueError, match="k must be at most"):
        Tracker(3)(problem, theta)
    with pytest.raises(ValueError, match="zeros"):
        lanczos(lambda v: v, theta)
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        lanczos(lambda v: v * torch.nan, theta + 1)
    with pytest.raises(ValueError, match="theta must have shape"):
        top_eigenpairs(problem, torch.zeros(3))
    with pytest.raises(ValueError, match="use top_eigenpairs"):
        spectrum(diagonal(np.ones(2001)), torch.zeros(2001, dtype=torch.float64))
    with pytest.raises(TypeError, match="whole class numbers"):
        Fit(networks.fcn(2, 3, 2, 3), np.ones((2, 2)), np.ones(2), "cross_entropy")
    with pytest.raises(ValueError, match="y names class 5"):
        fit = Fit(networks.fcn(2, 3, 2, 3), np.ones((2, 2)), np.array([0, 5]), "cross_entropy")
        fit.loss(networks.ntk(fit.model))
    with pytest.raises(ValueError, match="index must be"):
        fit.batch([])
