"""The work that spikenb and its peers do: four networks on made data, a few descent steps from their start."""

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from spikenb import data, networks
from spikenb.descent import gd
from spikenb.problem import Fit


class Case(NamedTuple):
    fit: Fit
    thetas: list  # 20 successive steps of gradient descent; 3 of a tiny case


def _tanh_module():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.w, self.b = (nn.Parameter(torch.zeros(20)) for _ in range(3))
            self.c = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return torch.tanh(x[:, None] * self.w + self.b) @ self.a + self.c

    return Net()


def _images(n, rng, side=32):
    return torch.from_numpy(rng.standard_normal((n, 3, side, side))).float()


NAMES = ("tanh", "fcn", "cnn", "alexnet")


def case(name, tiny=False, thetas=None):
    """The `Case` of that name: "tanh", "fcn", "cnn" or "alexnet", the cases (a) to (d); `tiny` for tests.

    `thetas`: a file with its θs, one a row. Another process, with other threads, would descend to slightly others.
    """
    rng = np.random.default_rng(0)
    steps = 3 if tiny else 20
    if name == "tanh":
        fit = Fit(networks.TwoLayer(20), *data.grid("sin x + sin 4x", -2.5, 2.5, 80))
        theta, lr, before = networks.normal(fit.model), 0.05, 0 if tiny else 20_000
    elif name == "fcn":
        n, side, width = (10, 4, 8) if tiny else (128, 32, 256)
        net = networks.fcn(3 * side**2, width, 5, parametrisation="standard", bias=True)
        x, y = _images(n, rng, side).flatten(1), torch.from_numpy(rng.choice([-1.0, 1.0], n)).float()
        fit, theta, lr, before = Fit(net, x, y), networks.pytorch(net).float() * 6**0.5, 1e-3, 10
    elif name == "cnn":
        n, side, channels = (10, 8, 4) if tiny else (100, 32, 16)
        module = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(channels * (side // 2) ** 2, 10),
        )  # fmt: skip
        net = networks.Network(module)
        y = nn.functional.one_hot(torch.from_numpy(rng.integers(0, 10, n)), 10).float()
        fit, theta, lr, before = Fit(net, _images(n, rng, side), y), networks.pytorch(net).float(), 1e-3, 10
    elif name == "alexnet":
        n, side, channels = (10, 8, 4) if tiny else (200, 32, 16)
        module = nn.Sequential(
            nn.Conv2d(3, channels, 5, stride=2, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(2 * channels * (side // 8) ** 2, 128), nn.ReLU(), nn.Linear(128, 10),
        )  # fmt: skip
        net = networks.Network(module)
        y = torch.from_numpy(rng.integers(0, 10, n))
        fit, theta, lr, before = (
            Fit(net, _images(n, rng, side), y, "cross_entropy"),
            networks.pytorch(net).float(),
            0.05,
            100,
        )
    else:
        raise ValueError(f"name must be one of tanh, fcn, cnn, alexnet, not {name!r}")
    if thetas:
        return Case(fit, list(torch.from_numpy(np.load(thetas))))
    thetas = [gd(fit, theta, lr, before).theta if before else theta]
    for _ in range(steps - 1):
        thetas.append(thetas[-1] - lr * fit.grad(thetas[-1]))
    return Case(fit, thetas)


def module_of(fit):
    """The case's network as an `nn.Module`, for peers that want one, with θ's order of parameters."""
    return _tanh_module().double() if isinstance(fit.model, networks.TwoLayer) else fit.model.module


CHECKED = 128  # points whose kernel is compared


def kernel(name, n, tiny=False):
    """(fit, θ) for a tangent kernel on n points: "fcn" or "cnn", NTK parametrisation, no biases, single precision."""
    rng, side = np.random.default_rng(1), 4 if tiny else 32
    if name == "fcn":
        net, x = networks.fcn(3 * side**2, 16 if tiny else 1024, 5), _images(n, rng, side).flatten(1)
    else:
        net, x = networks.cnn((3, side, side), 4 if tiny else 64, 5), _images(n, rng, side)
    return Fit(net, x, torch.zeros(n)), networks.ntk(net).float()


def agop(outputs, tiny=False):
    """(net, θ, x) for an AGOP: four layers of width 256 on 1,000 points of 3,072 numbers."""
    d, width, n = (12, 8, 20) if tiny else (3072, 256, 1000)
    net = networks.fcn(d, width, 4, outputs)
    x = torch.from_numpy(np.random.default_rng(2).standard_normal((n, d))).float()
    return net, networks.ntk(net).float(), x
