"""Training sets: the sources' one-dimensional target functions on a grid, polynomials on normal inputs, and images."""

import math
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from . import _checks, downloads

TARGETS = {
    "sin x + sin 4x": lambda x: np.sin(x) + np.sin(4 * x),
    "tanh(x-6) + tanh(x+6)": lambda x: np.tanh(x - 6) + np.tanh(x + 6),
    "two relus": lambda x: np.maximum(-x - 1 / 3, 0) / 2 + np.maximum(x - 1 / 3, 0) / 2,
}
"""The targets of *Loss Spike in Training Neural Networks*: figures 2-4; 5, 6(a), 7 and 9; 8."""


def grid(target, low, high, n):
    """n equidistant points from `low` to `high`, both included, and a target function's values there.

    Parameters
    ----------
    target : str or callable
        A name in `TARGETS`, or a function of an array of shape (n,).
    low, high : float
        The ends, low < high.
    n : int
        The number of points, at least 2.

    Returns
    -------
    x, y : ndarray
        float64, shape (n,) each.
    """
    if isinstance(target, str):
        target = TARGETS[_checks.choice("target", target, TARGETS)]
    low, high = _checks.array("low", low, 0).item(), _checks.array("high", high, 0).item()
    if not low < high:
        raise ValueError(f"low must be below high, not {low} and {high}")
    x = np.linspace(low, high, _checks.count("n", n, 2))
    return x, _checks.array("target(x)", target(x), 1)


class Polynomial:
    """A polynomial in x_1, …, x_d: {((variable, power), …): coefficient}, the empty key for the constant.

    Calling it on x of shape (n, d) gives its values, (n,); `gradient(d)` its derivatives, as polynomials, and
    `expectation()` its mean over independent standard normal variables.
    """

    def __init__(self, terms):
        self.terms = {key: c for key, c in terms.items() if c}

    def __bool__(self):
        return bool(self.terms)

    def __call__(self, x):
        total = 0
        for key, c in self.terms.items():
            product = c
            for variable, power in key:
                product = product * x[:, variable] ** power
            total = total + product
        return total + 0 * x[:, 0]

    def __mul__(self, other):
        terms = {}
        for first, a in self.terms.items():
            for second, b in other.terms.items():
                powers = dict(first)
                for variable, power in second:
                    powers[variable] = powers.get(variable, 0) + power
                key = tuple(sorted(powers.items()))
                terms[key] = terms.get(key, 0) + a * b
        return Polynomial(terms)

    def gradient(self, d):
        """∂/∂x_1, …, ∂/∂x_d, a list of polynomials."""
        parts = [{} for _ in range(d)]
        for key, c in self.terms.items():
            for variable, power in key:
                if variable >= d:
                    raise ValueError(f"d must be at least {variable + 1} for this polynomial, not {d}")
                rest = tuple((v, p - (v == variable)) for v, p in key if p > (v == variable))
                parts[variable][rest] = parts[variable].get(rest, 0) + c * power
        return [Polynomial(terms) for terms in parts]

    def expectation(self):
        """E over x ~ N(0, I): the moments of a standard normal variable are (m - 1)!! for even m, else 0."""
        moments = ((c, [0 if p % 2 else math.prod(range(1, p, 2)) for _, p in key]) for key, c in self.terms.items())
        return float(sum(c * math.prod(factors) for c, factors in moments))


LOW_RANK = {
    "rank-2": Polynomial({((0, 1), (1, 1)): 1}),
    "rank-3": Polynomial({((0, 1), (1, 1)): 1}) * Polynomial({((i, 1),): 1 for i in range(10)}),
    "rank-4": Polynomial({tuple((i, 1) for i in range(j)): 1 for j in range(1, 5)}),
}
"""The targets of *Catapults in SGD*: x₁x₂, x₁x₂(x₁ + … + x₁₀), and x₁ + x₁x₂ + x₁x₂x₃ + x₁x₂x₃x₄."""


def gaussian(target, n, d, noise=0.1, seed=0):
    """n points x ~ N(0, I_d) and y = f*(x) + ε, ε ~ N(0, noise²): the synthetic tasks of *Catapults in SGD*.

    Parameters
    ----------
    target : {"rank-2", "rank-3", "rank-4", "full rank"} or callable
        A name in `LOW_RANK`, f* = ‖x‖/√d, or a function of a tensor of shape (n, d).
    n, d : int
    noise : float
    seed : int

    Returns
    -------
    x, y : tensors, float64, shapes (n, d) and (n,).
    """
    n, d = _checks.count("n", n), _checks.count("d", d)
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_normal((n, d)))
    if isinstance(target, str):
        if _checks.choice("target", target, (*LOW_RANK, "full rank")) == "full rank":
            target = lambda x: x.norm(dim=1) / d**0.5  # noqa: E731
        else:
            LOW_RANK[target].gradient(d)  # refuses a d that is too small
            target = LOW_RANK[target]
    return x, target(x) + noise * torch.from_numpy(rng.standard_normal(n))


SETS = ("digits", *downloads.SETS)


def available(name):
    """Whether `load(name)` has its data at hand, without a network: always for "digits", else where `$SPIKENB_DATA`
    holds the pack or the set was downloaded before."""
    return _checks.choice("name", name, SETS) == "digits" or _pack(name).is_file() or downloads.at_hand(name)


def load(name, n=None, classes=None, split="train"):
    """Real images.

    Parameters
    ----------
    name : {"digits", "cifar10", "svhn", "fashion_mnist", "usps", "celeba_glasses"}
        "digits" are scikit-learn's 1,797 images of 8×8 pixels, its last 297 the test split. The others are
        read from the pack `$SPIKENB_DATA/<name>.npz`: x_train, x_test (uint8, (n, h, w) or (n, h, w, c)),
        y_train, y_test; where there is no pack, `downloads` fetches, verifies and keeps the set.
    n : int, optional
        The first n images, after the choice of classes; all unless given.
    classes : list of int, optional
        Keep these classes alone, numbered 0, 1, … in the order given.
    split : {"train", "test"}

    Returns
    -------
    x : tensor, float32, shape (n, channels, height, width), between 0 and 1.
    y : tensor, int64, shape (n,).

    Raises FileNotFoundError that says how to get the set, ValueError for a file that is no pack, a class
    that is not in it, or more images than there are. Nothing is unpickled.
    """
    _checks.choice("name", name, SETS)
    _checks.choice("split", split, ("train", "test"))
    x, y = _digits(split) if name == "digits" else _read(name, split)
    if classes is not None:
        missing = sorted(set(classes) - set(y.tolist()))
        if missing:
            raise ValueError(f"classes names {missing}, which {name} has not; it has {sorted(set(y.tolist()))}")
        number = {c: i for i, c in enumerate(classes)}
        keep = np.isin(y, list(number))
        x, y = x[keep], np.array([number[c] for c in y[keep].tolist()])
    if n is not None and _checks.count("n", n) > len(y):
        raise ValueError(f"n must be at most {len(y)}, the images that {name} ({split}) has, not {n}")
    return torch.from_numpy(np.ascontiguousarray(x[:n])), torch.from_numpy(y[:n].astype(np.int64))


def standardised(x, like=None):
    """Images with every channel's mean taken off and divided by its standard deviation, over all images and pixels.

    x : tensor, shape (n, channels, height, width). `like`: the images that mean and deviation are taken from, x unless
    given.

    Raises ValueError for another shape, or a channel that is constant.
    """
    x, like = _checks.tensor("x", x), _checks.tensor("like", x if like is None else like)
    if x.ndim != 4 or like.ndim != 4 or x.shape[1] != like.shape[1]:
        raise ValueError(f"x must have shape (n, channels, height, width), not {tuple(x.shape)}")
    mean, deviation = like.mean((0, 2, 3), keepdim=True), like.std((0, 2, 3), correction=0, keepdim=True)
    if (deviation == 0).any():
        raise ValueError("x has a channel that is constant, which cannot be divided by its deviation")
    return (x - mean) / deviation


def signs(y):
    """Two classes 0 and 1 as targets -1 and 1, float32, shape (n,). ValueError for other classes."""
    y = torch.as_tensor(y)
    if not set(y.unique().tolist()) <= {0, 1}:
        raise ValueError(f"y must hold the classes 0 and 1 alone, not {sorted(y.unique().tolist())}; name two classes")
    return 2 * y.float() - 1


def noisy(y, share, seed=0):
    """Class numbers of which a share, drawn at random, is replaced by another class, each as likely.

    y : tensor of ints, shape (n,). share : float, from 0 to 1. The classes are those in y.
    """
    y, share = torch.as_tensor(y).clone(), float(_checks.array("share", share, 0))
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, not {share}")
    kinds, place = y.unique(return_inverse=True)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(y), round(share * len(y)), replace=False)
    if len(chosen):
        if len(kinds) < 2:
            raise ValueError("y must hold two classes or more, to replace one by another")
        shift = torch.from_numpy(rng.integers(1, len(kinds), len(chosen)))
        y[chosen] = kinds[(place[chosen] + shift) % len(kinds)]
    return y


def rotated(x):
    """n points of d > n numbers in n coordinates: x → √(n/d)·L, with x = LQ, L lower triangular, Q's rows orthonormal.

    For a fully connected net without biases, in the NTK parametrisation with normal weights, this changes nothing:
    Wx/√d = (WQᵀ)(√(n/d)·L)ᵀ/√n, WQᵀ is normal as W was, and what W has outside Q's rows is never used or
    trained. The first layer gets d/n times cheaper. Points of n ≥ d numbers are returned flat, and else unchanged.

    x : tensor, shape (n, …), flattened to (n, d). Returns shape (n, min(n, d)).
    """
    x = _checks.tensor("x", x).flatten(1)
    n, d = x.shape
    return x if n >= d else torch.linalg.qr(x.double().T).R.T.to(x) * (n / d) ** 0.5


def _digits(split):
    from sklearn.datasets import load_digits

    digits = load_digits()
    part = slice(0, 1500) if split == "train" else slice(1500, None)
    return (digits.images[part, None] / 16).astype(np.float32), digits.target[part]


def _pack(name):
    return Path(os.environ.get("SPIKENB_DATA") or os.devnull) / f"{name}.npz"


def _read(name, split):
    path = _pack(name)
    if not path.is_file():
        x, y = downloads.images(name, split)
    else:
        try:
            with np.load(path, allow_pickle=False) as pack:
                x, y = pack[f"x_{split}"], pack[f"y_{split}"]
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path.name} in SPIKENB_DATA is no pack of images ({error}); get it again") from None
        if x.dtype != np.uint8 or x.ndim not in (3, 4) or len(x) != len(y):
            raise ValueError(
                f"{path.name} in SPIKENB_DATA is no pack of images: {x.dtype} of shape {x.shape}; get it again"
            )
    x = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
    return x.astype(np.float32) / 255, y
