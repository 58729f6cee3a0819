"""The AGOP against the gradients of one sample at a time, and exact ones against Monte Carlo."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spikenb import data, networks
from spikenb.agop import AGOP, agop, alignment, expected

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
IMAGE = (3, 4, 4)


class Skip(nn.Module):
    """Reads its input twice: its first layer does not see all of it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(11, 1)

    def forward(self, x):
        return self.last(torch.cat([torch.tanh(self.first(x)), x], 1))[:, 0]


NETWORKS = {
    "fcn": (networks.fcn(6, 4, 3), (6,)),
    "fcn, 3 outputs": (networks.fcn(6, 9, 3, 3, "tanh", bias=True), (6,)),
    "standard": (networks.fcn(6, 9, 2, 2, parametrisation="standard"), (6,)),
    "images into an fcn": (networks.fcn(48, 5, 3, 2), IMAGE),
    "cnn": (networks.cnn(IMAGE, 4, 3, 2), IMAGE),
    "wide resnet": (networks.wide_resnet(IMAGE, widen=1), IMAGE),
    "vit": (networks.vit(IMAGE, 1, 8, 2, 2), IMAGE),
    "two-layer": (networks.TwoLayer(6, "tanh", 4), (4,)),
    "skip": (networks.Network(Skip()), (6,)),
}


def one_by_one(net, theta, x):
    rows = [torch.func.jacrev(lambda z: net(theta, z[None]).reshape(-1))(z).flatten(1) for z in x]
    return sum(row.T @ row for row in rows) / len(x)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("n", [1, 3, 60])
def test_agop_is_the_mean_of_outer_products(name, n, device):
    net, shape = NETWORKS[name]
    theta, x = networks.pytorch(net) * 3, torch.from_numpy(np.random.default_rng(n).standard_normal((n, *shape)))
    G = one_by_one(net, theta, x)
    found = agop(net, theta.to(device), x.to(device), block=7)
    scale = G.norm().item()
    assert torch.allclose(found.matrix.cpu(), G, atol=1e-11 * scale)
    assert found.norm == pytest.approx(scale) and found.trace == pytest.approx(G.trace().item())
    assert torch.allclose(found.diagonal.cpu(), G.diagonal(), atol=1e-11 * scale)
    assert len(found.F) <= max(found.d, n * 3)
    single = agop(net, theta.float().to(device), x.float().to(device)).matrix.double().cpu()
    assert (single - G).norm() <= 1e-4 * scale


def test_the_first_layer_is_used_only_where_it_alone_reads_the_input():
    theta = networks.pytorch(NETWORKS["fcn"][0])
    x = torch.randn(50, 6, dtype=torch.float64)
    assert len(agop(NETWORKS["fcn"][0], theta, x).F) <= 4  # its width, below d = 6
    assert len(agop(NETWORKS["skip"][0], networks.pytorch(NETWORKS["skip"][0]), x).F) > 5


@settings(max_examples=30, deadline=None)
@given(rows=st.tuples(st.integers(1, 8), st.integers(1, 8)), d=st.integers(1, 6), seed=st.integers(0, 99))
def test_alignment_is_the_cosine_of_the_matrices(rows, d, seed):
    rng = np.random.default_rng(seed)
    first, second = (AGOP(torch.from_numpy(rng.standard_normal((r, d)))) for r in rows)
    cosine = (first.matrix * second.matrix).sum() / first.matrix.norm() / second.matrix.norm()
    assert alignment(first, second) == pytest.approx(cosine.item())
    assert alignment(first, first) == pytest.approx(1)


@pytest.mark.parametrize("name", [*data.LOW_RANK, "full rank"])
def test_exact_agop_of_the_targets_against_monte_carlo(name):
    d, n = 12, 400_000
    target = data.LOW_RANK.get(name, name)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((n, d))).requires_grad_()
    values = target(x) if name in data.LOW_RANK else x.norm(dim=1) / d**0.5
    (gradients,) = torch.autograd.grad(values.sum(), x)
    G = gradients.T @ gradients / n
    exact = expected(target, d)
    assert (exact.matrix - G).norm() <= 0.02 * G.norm()
    rank = {"rank-2": 2, "rank-3": 3, "rank-4": 4, "full rank": d}[name]
    assert len(exact.F) == np.linalg.matrix_rank(exact.matrix.numpy(), tol=1e-9) == rank
    if name == "rank-2":
        assert torch.allclose(exact.matrix.diagonal(), torch.eye(d, dtype=torch.float64)[:2].sum(0))


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.dictionaries(st.integers(0, 2), st.integers(1, 3), max_size=3).map(lambda p: tuple(sorted(p.items()))),
        st.integers(-3, 3), min_size=1, max_size=4,
    )
)  # fmt: skip
def test_polynomials_against_autograd_and_quadrature(terms):
    polynomial = data.Polynomial(terms)
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    x = torch.from_numpy(np.stack([g.ravel() for g in np.meshgrid(nodes, nodes, nodes)], 1))
    w = np.prod(np.stack([g.ravel() for g in np.meshgrid(weights, weights, weights)]), 0)
    assert polynomial.expectation() == pytest.approx((polynomial(x).numpy() * w / w.sum()).sum(), abs=1e-6)
    squared = polynomial * polynomial
    assert torch.allclose(squared(x), polynomial(x) ** 2, atol=1e-6, rtol=1e-9)
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(polynomial(x).sum(), x)
    for i, part in enumerate(polynomial.gradient(3)):
        assert torch.allclose(part(x), gradient[:, i], atol=1e-6)


def test_the_synthetic_tasks():
    x, y = data.gaussian("rank-2", 4000, 5, noise=0.1, seed=1)
    assert x.shape == (4000, 5) and y.shape == (4000,) and x.dtype == torch.float64
    assert (y - x[:, 0] * x[:, 1]).std().item() == pytest.approx(0.1, rel=0.1)
    again, _ = data.gaussian("rank-2", 4000, 5, seed=1)
    assert torch.equal(x, again)
    x, y = data.gaussian("rank-4", 50, 6, noise=0.0)
    assert torch.allclose(y, sum(x[:, : j + 1].prod(1) for j in range(4)))
    with pytest.raises(ValueError, match="d must be at least 10"):
        data.gaussian("rank-3", 5, 9)
    with pytest.raises(ValueError, match="target must be one of"):
        data.gaussian("rank-9", 5, 9)


def test_clear_errors():
    net = NETWORKS["fcn"][0]
    theta, x = networks.pytorch(net), torch.ones(3, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match="x has NaN"):
        agop(net, theta, x * torch.nan)
    with pytest.raises(ValueError, match="x must have shape"):
        agop(net, theta, torch.ones(3))
    batch = networks.Network(nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)))
    with pytest.raises(ValueError, match="mixes its samples"):
        agop(batch, networks.pytorch(batch), x)
    with pytest.raises(ValueError, match="as many inputs"):
        alignment(AGOP(torch.ones(1, 2)), AGOP(torch.ones(1, 3)))
    with pytest.raises(ValueError, match="zero"):
        alignment(AGOP(torch.zeros(1, 2)), AGOP(torch.ones(1, 2)))
