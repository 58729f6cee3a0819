"""Checks of arguments that several modules share. Each raises an error that names the argument."""

import math
import numbers
import os

import numpy as np
import torch


def positive(name, value):
    """`value` as a float; ValueError unless it is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number above 0, not {value!r}")
    return float(value)


def count(name, value, least=1):
    """`value` as an int; ValueError unless it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return int(value)


def choice(name, value, known):
    """`value` itself; ValueError that lists `known` unless it is one of them."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, not {value!r}")
    return value


def array(name, value, ndim=None):
    """`value` as a float64 NumPy array; ValueError if it is empty, not finite or not `ndim`-dimensional."""
    value = np.asarray(value, dtype=np.float64)
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension(s), not shape {value.shape}")
    if value.size == 0:
        raise ValueError(f"{name} is empty (shape {value.shape})")
    if not np.isfinite(value).all():
        raise ValueError(f"{name} has NaN or infinite entries; remove them first")
    return value


def tensor(name, value, dtype=torch.float64):
    """`value` as a detached float tensor; ValueError if it is empty or not finite."""
    if not isinstance(value, torch.Tensor):
        value = torch.as_tensor(np.asarray(value, dtype=np.float64), dtype=dtype)
    if not value.is_floating_point():
        value = value.to(dtype)
    if value.numel() == 0:
        raise ValueError(f"{name} is empty (shape {tuple(value.shape)})")
    if not torch.isfinite(value).all():
        raise ValueError(f"{name} has NaN or infinite entries; remove them first")
    return value.detach()


def fits(name, size, advice):
    """MemoryError unless the machine has `size` bytes free (where it can be asked)."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return
    if size > free:
        raise MemoryError(f"{name} needs {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free: {advice}")
