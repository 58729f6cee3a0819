"""Two-layer nets against torch.nn, their initialisations, and the toy targets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikenb import data, networks
from spikenb.networks import TwoLayer


@given(st.integers(1, 6), st.integers(1, 4), st.booleans(), st.sampled_from(["tanh", "relu"]), st.integers(0, 50))
@settings(deadline=None, max_examples=40)
def test_two_layer_is_torch_nn(width, inputs, bias, activation, seed):
    net = TwoLayer(width, activation, inputs, bias)
    theta = networks.normal(net, seed=seed)
    a, w, b, c = net.split(theta)
    twin = torch.nn.Sequential(
        torch.nn.Linear(inputs, width, bias),
        {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[activation](),
        torch.nn.Linear(width, 1, bias),
    ).double()
    state = {"0.weight": w, "2.weight": a[None]} | ({"0.bias": b, "2.bias": c[None]} if bias else {})
    twin.load_state_dict(state)
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((5, inputs)))
    assert torch.allclose(net(theta, x[:, 0] if inputs == 1 else x), twin(x)[:, 0])
    assert net.dim == sum(p.numel() for p in twin.parameters())


def test_ntk_parametrisation_divides_by_root_width_and_inputs():
    plain, ntk = TwoLayer(9, inputs=4, bias=False), TwoLayer(9, inputs=4, bias=False, parametrisation="ntk")
    theta = networks.near_zero(plain, 1.0)
    a, w, _, _ = plain.split(theta)
    rescaled = torch.cat([a / 3, (w / 2).reshape(-1)])
    x = torch.ones(2, 4).double()
    assert torch.allclose(ntk(theta, x), plain(rescaled, x))


def test_initialisations_have_their_variances():
    net = TwoLayer(2000)
    assert networks.normal(net, gamma=0.4).var().item() == pytest.approx(2000**-0.4, rel=0.1)
    assert networks.near_zero(net, 0.1).std().item() == pytest.approx(0.1, rel=0.05)
    a, w, b, c = net.split(networks.pytorch(net))
    assert 0.9 < w.abs().max() <= 1 and 0.9 < b.abs().max() <= 1
    assert a.abs().max() <= 2000**-0.5 and c.abs() <= 2000**-0.5


def test_a_seed_gives_one_network():
    net = TwoLayer(5)
    assert networks.normal(net, seed=3).equal(networks.normal(net, seed=3))
    assert not networks.normal(net, seed=3).equal(networks.normal(net, seed=4))


@pytest.mark.parametrize(
    "arguments, name",
    [
        (dict(width=0), "width"),
        (dict(width=2, activation="gelu"), "activation must be one of 'tanh', 'relu'"),
        (dict(width=2, parametrisation="mup"), "parametrisation"),
        (dict(width=2, inputs=-1), "inputs"),
    ],
)
def test_bad_networks(arguments, name):
    with pytest.raises(ValueError, match=name):
        TwoLayer(**arguments)


def test_bad_inputs_of_a_network():
    net = TwoLayer(2, inputs=3)
    with pytest.raises(ValueError, match="x must have shape"):
        net(networks.normal(net), torch.zeros(4, 2).double())
    with pytest.raises(ValueError, match="theta"):
        net(torch.zeros(3), torch.zeros(4, 3))


def test_targets_and_grid():
    x, y = data.grid("sin x + sin 4x", -np.pi, np.pi, 5)
    assert x[0] == -np.pi and x[-1] == np.pi and np.allclose(y, np.sin(x) + np.sin(4 * x))
    x, y = data.grid("two relus", -5 / 3, 5 / 3, 6)
    assert np.allclose(y, np.clip(abs(x) - 1 / 3, 0, None) / 2)
    x, y = data.grid(np.cos, 0, 1, 3)
    assert np.allclose(y, np.cos([0, 0.5, 1]))


@given(st.text(max_size=12).filter(lambda s: s not in data.TARGETS))
def test_an_unknown_target_lists_the_known(name):
    with pytest.raises(ValueError, match="sin x \\+ sin 4x"):
        data.grid(name, 0, 1, 5)


@pytest.mark.parametrize(
    "low, high, n, name", [(1, 0, 5, "low"), (0, np.nan, 5, "high"), (0, 1, 1, "n"), (0, 1, 0, "n")]
)
def test_bad_grids(low, high, n, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        data.grid("two relus", low, high, n)
