"""The sources' network architectures as functions f(θ, x) of one flat vector θ, and their initialisations."""

import math

import numpy as np
import torch

from . import _checks

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}
PARAMETRISATIONS = ("standard", "ntk")


class TwoLayer:
    """A two-layer net with one output, f(θ, x) = Σ_j a_j σ(w_j·x + b_j) + c.

    Parameters
    ----------
    width : int
        m, the number of hidden neurons.
    activation : {"tanh", "relu"}
        σ.
    inputs : int
        d, the dimension of x. For d = 1 x has shape (n,), else (n, d).
    bias : bool
        Whether b and c are there. *Loss Spike in Training Neural Networks* has them, *Catapults in SGD*
        gets its numbers without.
    parametrisation : {"standard", "ntk"}
        "ntk" divides w·x by √d and the sum over neurons by √m (Jacot et al. 2018).

    θ holds a (m), w (m × d, row by row), b (m), c (1), in this order: `dim` = m(d + 2) + 1, or m(d + 1)
    without biases.
    """

    def __init__(self, width, activation="tanh", inputs=1, bias=True, parametrisation="standard"):
        self.width = _checks.count("width", width)
        self.inputs = _checks.count("inputs", inputs)
        self.activation = _checks.choice("activation", activation, ACTIVATIONS)
        self.parametrisation = _checks.choice("parametrisation", parametrisation, PARAMETRISATIONS)
        self.bias = bool(bias)
        self.dim = width * (inputs + 1) + (width + 1 if bias else 0)

    def split(self, theta):
        """θ as (a, w, b, c) of shapes (m,), (m, d), (m,), (); b and c are None without biases."""
        m, d = self.width, self.inputs
        if theta.shape != (self.dim,):
            raise ValueError(f"theta must have shape ({self.dim},), not {tuple(theta.shape)}")
        a, w, rest = theta[:m], theta[m : m + m * d].reshape(m, d), theta[m + m * d :]
        return (a, w, rest[:m], rest[m]) if self.bias else (a, w, None, None)

    def __call__(self, theta, x):
        """f(θ, x), shape (n,), for x of shape (n,) when d = 1, else (n, d)."""
        a, w, b, c = self.split(theta)
        expected = "(n,)" if self.inputs == 1 else f"(n, {self.inputs})"
        if x.ndim != (1 if self.inputs == 1 else 2) or (x.ndim == 2 and x.shape[1] != self.inputs):
            raise ValueError(f"x must have shape {expected}, not {tuple(x.shape)}")
        ntk = self.parametrisation == "ntk"
        hidden = x.reshape(-1, self.inputs) @ w.T / (math.sqrt(self.inputs) if ntk else 1)
        hidden = ACTIVATIONS[self.activation](hidden if b is None else hidden + b)
        output = hidden @ a / (math.sqrt(self.width) if ntk else 1)
        return output if c is None else output + c


def normal(net, gamma=1.0, seed=0):
    """θ ~ N(0, m^-γ), every parameter, biases too: the initialisation of *Loss Spike in Training Neural Networks*.

    Returns a float64 tensor of shape (net.dim,), drawn by NumPy's `default_rng(seed)`, so that it is the
    same on every machine. γ is 1 in its figures 2-4, 7 and 9, and 0.4 in figures 5, 6(a) and 8.
    """
    return near_zero(net, net.width ** (-gamma / 2), seed)


def near_zero(net, sigma=0.1, seed=0):
    """θ ~ N(0, σ²), every parameter. σ = 1 with the "ntk" parametrisation is the initialisation of
    *Catapults in SGD*, σ = 0.1 its near-zero one (figure 25)."""
    sigma = _checks.positive("sigma", sigma)
    return torch.from_numpy(sigma * np.random.default_rng(seed).standard_normal(net.dim))


def pytorch(net, seed=0):
    """Every parameter uniform in ±1/√fan_in, as `torch.nn.Linear` draws its weights and biases."""
    of_hidden, of_output = 1 / math.sqrt(net.inputs), 1 / math.sqrt(net.width)
    bound = torch.full((net.dim,), of_hidden, dtype=torch.float64)
    bound[: net.width] = of_output
    if net.bias:
        bound[-1] = of_output
    return bound * torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, net.dim))
