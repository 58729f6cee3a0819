"""The tangent kernel against J Jᵀ from autograd, in float64, for every architecture."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spikenb import networks, tangent
from spikenb.curvature import critical_learning_rate, spectrum
from spikenb.descent import on_batch, sgd
from spikenb.problem import Fit

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
IMAGE = (3, 8, 8)


class Odd(nn.Module):
    """Layers called twice, a weight shared, a weight used without its layer, in-place σ, strides and groups."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding="valid", bias=True)
        self.twice = nn.Conv2d(4, 4, 3, padding="same", dilation=2)
        self.grouped = nn.Conv2d(4, 4, 1, groups=2)
        self.reflect = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.first, self.second = nn.Linear(9, 9), nn.Linear(9, 9, bias=False)
        self.second.weight = self.first.weight
        self.attention = nn.MultiheadAttention(9, 3, batch_first=True)
        self.head = nn.Linear(36, 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.conv(x))
        x = self.reflect(self.grouped(self.twice(torch.tanh(self.twice(x)))))
        x = self.second(torch.tanh(self.first(x.flatten(2))))
        return self.head(self.attention(x, x, x, need_weights=False)[0].flatten(1))


NETWORKS = {
    "fcn": (networks.fcn(5, 7, 3), (5,)),
    "fcn with biases, 3 outputs": (networks.fcn(5, 7, 4, 3, "tanh", bias=True), (5,)),
    "fcn, standard": (networks.fcn(5, 7, 2, 2, bias=True, parametrisation="standard"), (5,)),
    "one layer": (networks.fcn(5, 7, 1, 2), (5,)),
    "cnn": (networks.cnn(IMAGE, 4, 3, 2, bias=True), IMAGE),
    "myrtle": (networks.myrtle5(IMAGE, 4), IMAGE),
    "wide resnet": (networks.wide_resnet(IMAGE, widen=1, outputs=2), IMAGE),
    "wide resnet without norm": (networks.wide_resnet(IMAGE, widen=1, norm=None), IMAGE),
    "vit": (networks.vit(IMAGE, 2, 8, 2, 4, 2, bias=True), IMAGE),
    "two-layer": (networks.TwoLayer(6, "tanh", 4), (4,)),
    "odd": (networks.Network(Odd()), IMAGE),
}


def fit_of(name, n=4, seed=0, **options):
    net, shape = NETWORKS[name]
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_normal((n, *shape)))
    theta = networks.pytorch(net, seed) * 3
    return Fit(net, x, torch.from_numpy(rng.standard_normal(tuple(net(theta, x).shape))), **options), theta


def dense(fit, theta):
    jacobian = fit.jacobian(theta)
    return jacobian @ jacobian.T


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NETWORKS)
def test_kernel_is_the_jacobians_product(name, device):
    fit, theta = fit_of(name)
    expected = dense(fit, theta)
    fit, theta = fit.to(device), theta.to(device)
    for memory, block in ((1e9, None), (max(3000, 16 * fit.dim), 3)):
        K = tangent.kernel(fit, theta, memory, block).cpu()
        assert torch.allclose(K, expected, rtol=1e-9, atol=1e-10 * expected.abs().max().item())
        assert torch.equal(K, K.T)
    assert tangent.norm(fit, theta, tol=1e-9) == pytest.approx(tangent.norm(expected), rel=1e-7)
    single = tangent.kernel(fit.to(torch.float32), theta.float()).double().cpu()
    assert (single - expected).norm() <= 1e-4 * expected.norm()


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 7), inputs=st.integers(1, 6), width=st.integers(1, 9), depth=st.integers(1, 4),
    outputs=st.integers(1, 3), bias=st.booleans(), ntk=st.booleans(), rows=st.sampled_from([2, 5, 1024]),
    memory=st.sampled_from([100, 10_000, 1e9]), block=st.integers(1, 8),
)  # fmt: skip
def test_random_shapes(n, inputs, width, depth, outputs, bias, ntk, rows, memory, block):
    net = networks.fcn(inputs, width, depth, outputs, "tanh", bias, "ntk" if ntk else "standard")
    x, theta = torch.randn(n, inputs, dtype=torch.float64), networks.ntk(net)
    fit = Fit(net, x, torch.zeros_like(net(theta, x)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tangent, "ROWS", rows)
        K = tangent.kernel(fit, theta, memory, block)
    assert torch.allclose(K, dense(fit, theta), rtol=1e-9, atol=1e-12)


def test_ntk_parametrisation_is_the_standard_one_scaled():
    scaled, plain = networks.fcn(6, 5, 3, bias=True), networks.fcn(6, 5, 3, bias=True, parametrisation="standard")
    theta = networks.ntk(scaled)
    parts = {name: p / p.shape[1] ** 0.5 if p.ndim == 2 else p for name, p in scaled.split(theta).items()}
    x = torch.randn(3, 6, dtype=torch.float64)
    assert torch.allclose(scaled(theta, x), plain(plain.join(parts), x))


def test_biases_are_off_unless_asked_for():
    assert not any("bias" in name for net, _ in NETWORKS.values() if isinstance(net, networks.Network)
                   for name in networks.fcn(4, 3, 2).shapes)  # fmt: skip
    with_bias = networks.fcn(4, 3, 2, bias=True)
    assert sum("bias" in name for name in with_bias.shapes) == 2


def test_samples_must_be_independent():
    net = networks.wide_resnet(IMAGE, widen=1, norm="batch")
    x = torch.randn(4, *IMAGE, dtype=torch.float64)
    theta = networks.pytorch(net)
    fit = Fit(net, x, torch.zeros(4))
    with pytest.raises(ValueError, match=r"mixes its samples.*eval"):
        tangent.kernel(fit, theta)
    with pytest.raises(ValueError, match="mixes its samples"):
        tangent.norm(fit, theta)
    net.module.eval()
    assert torch.allclose(tangent.kernel(fit, theta), dense(fit, theta))
    random = networks.Network(nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)))
    with pytest.raises(ValueError, match="random"):
        tangent.kernel(Fit(random, np.ones((2, 3)), np.ones((2, 2))), networks.pytorch(random))


def test_top_space_split_and_norm():
    fit, theta = fit_of("cnn", 5)
    K = tangent.kernel(fit, theta)
    values, vectors = np.linalg.eigh(K.numpy())
    space = tangent.top_space(K, 3)
    assert np.allclose(space.values, values[::-1][:3])
    assert np.isclose(tangent.norm(K), values[-1])
    within, beyond = tangent.split_loss(fit, theta, space.vectors)
    r = fit.residuals(theta).reshape(-1).numpy()
    assert np.isclose(within, fit.prefactor * ((vectors[:, -3:].T @ r) ** 2).sum())
    assert np.isclose(within + beyond, fit.loss(theta).item())
    big = torch.randn(1200, 40, dtype=torch.float64)
    big = big @ big.T
    assert np.allclose(tangent.top_space(big, 4).values, np.linalg.eigvalsh(big.numpy())[::-1][:4], rtol=1e-6)
    assert np.isclose(tangent.norm(big), np.linalg.eigvalsh(big.numpy())[-1])


@pytest.mark.parametrize("loss", ["mse", "half_mse", "half_sse"])
@pytest.mark.parametrize("name", ["fcn", "cnn"])
def test_critical_rates_are_those_of_the_gauss_newton_matrix(loss, name):
    fit, theta = fit_of(name, 6, loss=loss)
    J = fit.jacobian(theta)
    K = tangent.kernel(fit, theta)
    top = torch.linalg.eigvalsh(2 * fit.prefactor * J.T @ J)[-1].item()
    assert tangent.critical_learning_rate(fit, K) == pytest.approx(2 / top)
    batches = np.array([[0, 3], [5, 1], [2, 2]])
    of_batches = [tangent.critical_learning_rate(b, tangent.kernel(b, theta)) for b in map(fit.batch, batches[:2])]
    assert tangent.batch_critical_learning_rates(fit, K, batches)[:2] == pytest.approx(of_batches)


def test_at_a_perfect_fit_kernel_and_hessian_agree_exactly():
    net, shape = NETWORKS["fcn"]
    theta, x = networks.ntk(net), torch.randn(6, *shape, dtype=torch.float64)
    fit = Fit(net, x, net(theta, x))
    expected = 2 / spectrum(fit, theta).values[0]
    assert tangent.critical_learning_rate(fit, tangent.kernel(fit, theta)) == pytest.approx(expected)


def test_critical_rate_from_the_hessian_and_from_the_kernel_along_sgd():
    """C-f12 at its own width, 1024: within 5% at every step, the median within 2%."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((64, 100))).float()
    y = torch.from_numpy(rng.choice([-1.0, 1.0], 64)).float()
    net = networks.fcn(100, 1024, 2)
    fit, theta = Fit(net, x, y), networks.ntk(net).float()

    def ratio(fit, theta, index):
        batch = fit.batch(index)
        return critical_learning_rate(batch, theta) / tangent.critical_learning_rate(
            batch, tangent.kernel(batch, theta)
        )

    eta = tangent.critical_learning_rate(fit, tangent.kernel(fit, theta))
    run = sgd(fit, theta, eta, 30, batch_size=32, record={"ratio": on_batch(ratio)})
    off = np.abs(run["ratio"].values - 1)
    assert off.max() <= 0.05 and np.median(off) <= 0.02


def test_clear_errors():
    fit, theta = fit_of("fcn")
    K = tangent.kernel(fit, theta)
    for call, message in (
        (lambda: tangent.top_space(K, 5), "s must be at most the size of K, 4, not 5"),
        (lambda: tangent.norm(K[:2]), "K must be square"),
        (lambda: tangent.norm(K * torch.nan), "K has NaN"),
        (lambda: tangent.split_loss(fit, theta, torch.ones(3, 1)), "vectors must have 4 rows"),
        (lambda: tangent.batch_critical_learning_rates(fit, K, [[7]]), "the fit has 0 to 3"),
        (lambda: tangent.batch_critical_learning_rates(fit, K, [1, 2]), "shape"),
        (lambda: tangent.batch_critical_learning_rates(fit, torch.eye(3), [[0]]), "no kernel of a fit of 4"),
        (lambda: tangent.kernel(fit, theta[:-1]), "theta must have shape"),
        (lambda: networks.Network(nn.Flatten()), "number of parameters"),
        (lambda: networks.vit((3, 9, 9)), "patch must divide"),
        (lambda: networks.wide_resnet(IMAGE, depth=11), "depth must be"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(FloatingPointError, match="NaN"):
        tangent.kernel(fit, theta * torch.inf)
    entropy = Fit(networks.fcn(2, 3, 2, 2), np.ones((2, 2)), np.array([0, 1]), "cross_entropy")
    with pytest.raises(ValueError, match="squared loss"):
        tangent.critical_learning_rate(entropy, torch.eye(4))


def test_a_kernel_too_large_for_the_machine_says_so(monkeypatch):
    fit, theta = fit_of("fcn")
    monkeypatch.setattr("os.sysconf", lambda name: 1)
    with pytest.raises(MemoryError, match=r"use tangent\.norm"):
        tangent.kernel(fit, theta)


def test_a_watch_measures_the_kernel_once_a_step_for_all_that_needs_it():
    net = networks.fcn(5, 16, 3)
    fit = Fit(net, torch.randn(12, 5, dtype=torch.float64), torch.randn(12, dtype=torch.float64))
    watch = tangent.Watch(2)
    record = {"kernel": watch, "critical": on_batch(watch.of_batch)}
    run = sgd(fit, networks.ntk(net).double(), 0.1, 3, 4, record=record)
    K = tangent.kernel(fit, run.theta)
    within, rest = tangent.split_loss(fit, run.theta, tangent.top_space(K, 2).vectors)
    assert run["kernel"].values.shape == (4, 3)
    assert run["kernel"].values[-1] == pytest.approx([tangent.norm(K), within, rest])
    again = tangent.batch_critical_learning_rates(fit, tangent.kernel(fit, networks.ntk(net).double()), run.batches[:1])
    assert run["critical"].values[0] == pytest.approx(again[0])
    with pytest.raises(ValueError, match="record the Watch"):
        tangent.Watch(2).of_batch(fit, run.theta, run.batches[0])
