"""The sources' network architectures as functions f(θ, x) of one flat vector θ, and their initialisations."""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

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


class Linear(nn.Linear):
    """`torch.nn.Linear` whose product with the weights is divided by √fan_in: the NTK parametrisation, Wx/√m + b."""

    def __init__(self, inputs, outputs, bias=False):
        super().__init__(inputs, outputs, bias)
        self.scale = 1 / math.sqrt(inputs)

    def forward(self, x):
        out = functional.linear(x, self.weight) * self.scale
        return out if self.bias is None else out + self.bias


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` whose convolution is divided by √fan_in, fan_in = s² times the channels it reads."""

    def __init__(self, inputs, outputs, kernel_size, bias=False, **options):
        super().__init__(inputs, outputs, kernel_size, bias=bias, **options)
        self.scale = 1 / math.sqrt(self.weight[0].numel())

    def forward(self, x):
        out = self._conv_forward(x, self.weight, None) * self.scale
        return out if self.bias is None else out + self.bias[:, None, None]


NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


class Network:
    """An `nn.Module` as a function f(θ, x) of one flat vector θ.

    θ holds the module's parameters in the order of `module.named_parameters()`, each row by row; `dim` is
    their number and `split(θ)` gives them by name. The parameters that the module itself holds are not
    used; `parameters()` gives them as a θ. Buffers (the running means of a batch normalisation) are the
    module's own and are not changed.
    """

    def __init__(self, module):
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, not {type(module).__name__}")
        self.module = module
        self.shapes = {name: p.shape for name, p in module.named_parameters()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        self.dim = _checks.count("the number of parameters", sum(self.sizes))

    def split(self, theta):
        """θ as a dict of tensors, by the module's parameter names; views of θ."""
        if theta.shape != (self.dim,):
            raise ValueError(f"theta must have shape ({self.dim},), not {tuple(theta.shape)}")
        parts = torch.split(theta, self.sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def join(self, parameters):
        """The θ of a dict of tensors by parameter name, the inverse of `split`."""
        return torch.cat([parameters[name].detach().reshape(-1) for name in self.shapes])

    def parameters(self):
        """The θ that the module itself holds, shape (dim,)."""
        return self.join(dict(self.module.named_parameters()))

    def __call__(self, theta, x):
        """f(θ, x): what the module returns with θ as its parameters."""
        return self.run(self.state(theta), x)

    def state(self, theta):
        """θ by name, and copies of the module's buffers, of θ's dtype and on its device: what `run` needs."""
        state = self.split(theta)
        for name, buffer in self.module.named_buffers():
            state[name] = buffer.to(theta, copy=True) if buffer.is_floating_point() else buffer.to(theta.device).clone()
        return state

    def run(self, state, x):
        """The module's output at x with the tensors of `state`; attention in plain products, which alone can be
        differentiated forwards and twice."""
        with sdpa_kernel(SDPBackend.MATH):
            return torch.func.functional_call(self.module, state, (x,))

    def _draw(self, sample, scale_of):
        """A θ drawn parameter by parameter; norm layers start as the identity."""
        owners = {f"{path}.{name}".lstrip("."): (module, name) for path, module in self.module.named_modules()
                  for name, _ in module.named_parameters(recurse=False)}  # fmt: skip
        parts = {}
        for name, shape in self.shapes.items():
            module, attribute = owners[name]
            if isinstance(module, NORMS):
                parts[name] = torch.full(shape, 1.0 if attribute == "weight" else 0.0, dtype=torch.float64)
            else:
                weights = getattr(module, "weight", None)
                fan_in = weights[0].numel() if isinstance(module, nn.Linear | nn.Conv2d) else None
                parts[name] = torch.from_numpy(scale_of(fan_in) * sample(tuple(shape)))
        return self.join(parts)


def fcn(inputs, width, depth, outputs=1, activation="relu", bias=False, parametrisation="ntk"):
    """A fully connected net of `depth` weight layers: x → σ(W x/√d) → … → W h/√m, a `Network`.

    x has shape (n, inputs) (or any shape of as many numbers a point), the output (n,) or (n, outputs).
    *Catapults in SGD* writes biases into its formula (appendix F), but its numbers only come out without
    them, so `bias` is False unless asked for. parametrisation="standard" leaves the divisions out.
    """
    depth, width = _checks.count("depth", depth, 1), _checks.count("width", width)
    sizes = [_checks.count("inputs", inputs)] + [width] * (depth - 1) + [_checks.count("outputs", outputs)]
    linear = _layer(parametrisation, Linear, nn.Linear)
    layers = [nn.Flatten()]
    for m, k in pairwise(sizes):
        layers += [linear(m, k, bias=bias), _activation(activation)]
    return Network(nn.Sequential(*layers[:-1], *_scalar(outputs)))


def cnn(shape, channels, depth, outputs=1, activation="relu", bias=False, parametrisation="ntk"):
    """The 3×3 convolutional net of *Catapults in SGD*: depth - 1 convolutions with zero padding, flattened,
    and one linear layer. `shape` is an image's, (channels, height, width)."""
    c, h, w = _image(shape)
    conv, linear = _layer(parametrisation, Conv2d, nn.Conv2d), _layer(parametrisation, Linear, nn.Linear)
    layers = []
    for _ in range(_checks.count("depth", depth, 2) - 1):
        layers += [conv(c, channels, 3, padding=1, bias=bias), _activation(activation)]
        c = channels
    return Network(nn.Sequential(*layers, nn.Flatten(), linear(c * h * w, outputs, bias=bias), *_scalar(outputs)))


def myrtle5(shape, channels, outputs=1, activation="relu", bias=False, parametrisation="ntk"):
    """The Myrtle net with five weight layers (Shankar et al. 2020): four 3×3 convolutions, 2×2 average pooling
    after the second and third, pooling to one pixel after the fourth, and a linear layer."""
    c, h, w = _image(shape)
    if h % 4 or w % 4:
        raise ValueError(f"shape must have height and width that four divides, not {shape}")
    conv, linear = _layer(parametrisation, Conv2d, nn.Conv2d), _layer(parametrisation, Linear, nn.Linear)
    layers = []
    for pool in (None, nn.AvgPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)):
        layers += [conv(c, channels, 3, padding=1, bias=bias), _activation(activation)] + ([pool] if pool else [])
        c = channels
    return Network(nn.Sequential(*layers, nn.Flatten(), linear(c, outputs, bias=bias), *_scalar(outputs)))


class _Block(nn.Module):
    """The pre-activation block of a wide residual network: norm, σ, convolution, twice, and the shortcut."""

    def __init__(self, inputs, outputs, stride, conv, norm, activation, bias):
        super().__init__()
        self.norm1, self.norm2 = norm(inputs), norm(outputs)
        self.conv1 = conv(inputs, outputs, 3, stride=stride, padding=1, bias=bias)
        self.conv2 = conv(outputs, outputs, 3, padding=1, bias=bias)
        self.activation = activation
        straight = inputs == outputs and stride == 1
        self.shortcut = None if straight else conv(inputs, outputs, 1, stride=stride, bias=bias)

    def forward(self, x):
        z = self.activation(self.norm1(x))
        out = self.conv2(self.activation(self.norm2(self.conv1(z))))
        return out + (x if self.shortcut is None else self.shortcut(z))


def wide_resnet(
    shape, depth=10, widen=10, outputs=1, norm="group", activation="relu", bias=False, parametrisation="ntk"
):
    """The wide residual network WRN-depth-widen (Zagoruyko & Komodakis 2016); "10-10" unless told.

    norm : {"group", "batch", None}
        "group" normalises each sample's channels in groups of at most 16, the same in training and testing.
        "batch" is the original's; the tangent kernel and the AGOP refuse it in training mode, where
        samples are not independent. None leaves the normalisation out.
    """
    c = _image(shape)[0]
    if (depth - 4) % 6:
        raise ValueError(f"depth must be 6k + 4 (10, 16, 22, …), not {depth}")
    conv, linear = _layer(parametrisation, Conv2d, nn.Conv2d), _layer(parametrisation, Linear, nn.Linear)
    make = {"group": lambda k: nn.GroupNorm(max(k // 16, 1), k), "batch": nn.BatchNorm2d, None: lambda k: nn.Identity()}
    norm = make[_checks.choice("norm", norm, make)]
    layers, inputs = [conv(c, 16, 3, padding=1, bias=bias)], 16
    for group, width in enumerate((16 * widen, 32 * widen, 64 * widen)):
        for k in range((depth - 4) // 6):
            stride = 2 if group and not k else 1
            layers.append(_Block(inputs, width, stride, conv, norm, _activation(activation), bias))
            inputs = width
    layers += [norm(inputs), _activation(activation), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return Network(nn.Sequential(*layers, linear(inputs, outputs, bias=bias), *_scalar(outputs)))


class _EncoderLayer(nn.Module):
    """A transformer layer with the norms first; attention in plain products, which every derivative passes."""

    def __init__(self, width, heads, hidden, linear, bias):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.keys, self.values, self.mix = (linear(width, width, bias=bias) for _ in range(4))
        self.up, self.down = linear(width, hidden, bias=bias), linear(hidden, width, bias=bias)

    def forward(self, x):
        n, tokens, width = x.shape
        z = self.norm1(x)
        q, k, v = (
            layer(z).view(n, tokens, self.heads, -1).transpose(1, 2) for layer in (self.queries, self.keys, self.values)
        )
        attention = (q @ k.transpose(2, 3) / math.sqrt(width // self.heads)).softmax(-1)
        x = x + self.mix((attention @ v).transpose(1, 2).reshape(n, tokens, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class _Tokens(nn.Module):
    """An image as a row of patches, each mapped to `width` numbers, behind a class token, with positions added."""

    def __init__(self, shape, patch, width, linear, bias):
        super().__init__()
        c, h, w = shape
        self.patch = patch
        self.embed = linear(c * patch**2, width, bias=bias)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, (h // patch) * (w // patch) + 1, width))

    def forward(self, x):
        patches = functional.unfold(x, self.patch, stride=self.patch).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), self.embed(patches)], 1)
        return tokens + self.positions


class _First(nn.Module):
    def forward(self, x):
        return x[:, 0]


def vit(shape, layers=4, width=256, heads=8, patch=4, outputs=1, bias=False, parametrisation="ntk"):
    """A vision transformer (Dosovitskiy et al. 2021), "ViT-4" by its four layers, read out at the class token."""
    shape = _image(shape)
    if shape[1] % patch or shape[2] % patch:
        raise ValueError(f"patch must divide height and width of {shape}, not {patch}")
    if width % heads:
        raise ValueError(f"heads must divide width, {width}, not {heads}")
    linear = _layer(parametrisation, Linear, nn.Linear)
    encoder = [_EncoderLayer(width, heads, 2 * width, linear, bias) for _ in range(_checks.count("layers", layers))]
    head = [_First(), nn.LayerNorm(width), linear(width, outputs, bias=bias), *_scalar(outputs)]
    return Network(nn.Sequential(_Tokens(shape, patch, width, linear, bias), *encoder, *head))


def _layer(parametrisation, ntk, standard):
    return ntk if _checks.choice("parametrisation", parametrisation, PARAMETRISATIONS) == "ntk" else standard


def _activation(name):
    return {"tanh": nn.Tanh, "relu": nn.ReLU}[_checks.choice("activation", name, ACTIVATIONS)]()


def _scalar(outputs):
    return [nn.Flatten(0)] if _checks.count("outputs", outputs) == 1 else []


def _image(shape):
    if len(shape) != 3:
        raise ValueError(f"shape must be an image's (channels, height, width), not {shape}")
    return tuple(_checks.count("shape", k) for k in shape)


def normal(net, gamma=1.0, seed=0):
    """θ ~ N(0, m^-γ), every parameter, biases too: the initialisation of *Loss Spike in Training Neural Networks*.

    Takes a `TwoLayer`. Returns a float64 tensor of shape (net.dim,), drawn by NumPy's `default_rng(seed)`, so that it
    is the same on every machine. γ is 1 in its figures 2-4, 7 and 9, and 0.4 in figures 5, 6(a) and 8.
    """
    return near_zero(net, net.width ** (-gamma / 2), seed)


def near_zero(net, sigma=0.1, seed=0):
    """θ ~ N(0, σ²), every parameter but those of normalisation layers, which start as the identity.

    σ = 1 with the "ntk" parametrisation is the initialisation of *Catapults in SGD*, σ = 0.1 its
    near-zero one (figure 25). Returns a float64 tensor of shape (net.dim,).
    """
    sigma, rng = _checks.positive("sigma", sigma), np.random.default_rng(seed)
    if isinstance(net, Network):
        return net._draw(rng.standard_normal, lambda fan_in: sigma)
    return torch.from_numpy(sigma * rng.standard_normal(net.dim))


def ntk(net, seed=0):
    """θ ~ N(0, 1), the initialisation that goes with parametrisation="ntk"; float64, shape (net.dim,)."""
    return near_zero(net, 1.0, seed)


def pytorch(net, seed=0):
    """Every parameter uniform in ±1/√fan_in, as `torch.nn.Linear` and `Conv2d` draw their weights and biases;
    float64. Normalisation layers start as the identity, tokens and positions in ±0.02."""
    rng = np.random.default_rng(seed)
    if isinstance(net, Network):
        return net._draw(
            lambda shape: rng.uniform(-1, 1, shape), lambda fan_in: 0.02 if fan_in is None else 1 / math.sqrt(fan_in)
        )
    of_hidden, of_output = 1 / math.sqrt(net.inputs), 1 / math.sqrt(net.width)
    bound = torch.full((net.dim,), of_hidden, dtype=torch.float64)
    bound[: net.width] = of_output
    if net.bias:
        bound[-1] = of_output
    return bound * torch.from_numpy(rng.uniform(-1, 1, net.dim))
