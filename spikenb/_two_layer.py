"""Two-layer nets with one input, in compiled code: gradient descent, ensembles, the closed-form Hessian.

`descent` and `curvature` use this module by themselves where `applies(problem)`. Where numba is missing the
same steps run in NumPy, some six times slower.

With z = w x + b, h = σ(z) and r = f - y, for L = p Σ r² and f = Σ_j a_j h_j + c:
   ∂L/∂a_j = 2p Σ_i r_i h_ij,  ∂L/∂w_j = 2p a_j Σ_i r_i h'_ij x_i,  ∂L/∂b_j = 2p a_j Σ_i r_i h'_ij,  ∂L/∂c = 2p Σ_i r_i
"""

import math
import warnings
from functools import cache

import numpy as np
import torch

from .networks import TwoLayer
from .problem import Fit

LANES = 8  # doubles in the widest vector register
LARGEST = 200_000  # neurons x points; beyond, torch's matrix products win


def applies(problem):
    """Whether the problem is a two-layer net with one input and biases, in float64 on the CPU, and small."""
    if not (isinstance(problem, Fit) and isinstance(problem.model, TwoLayer)):
        return False
    net, x, y = problem.model, problem.x, problem.y
    plain = net.inputs == 1 and net.bias and net.parametrisation == "standard"
    doubles = all(v.dtype == torch.float64 and v.device.type == "cpu" and v.ndim == 1 for v in (x, y))
    return plain and doubles and net.width * len(x) <= LARGEST


def walk(problem, theta, lr, steps):
    """Up to `steps` steps of gradient descent from θ.

    Returns (losses, last, after): the losses up to the first that is not finite, the θ of the last of them, and
    the θ one step on.
    """
    losses, done, last, after = walk_many(problem, theta.numpy()[None], np.array([lr]), steps)
    return losses[0, : done[0]], torch.from_numpy(last[0]), torch.from_numpy(after[0])


def walk_many(problem, thetas, lrs, steps):
    """`walk` for k starts, θ of shape (k, dim) and lrs of shape (k,), on all cores.

    Returns the losses, shape (k, steps), how many of each are finite, shape (k,), and the last and next θ.
    """
    n = len(problem.x)
    x, y = np.zeros((2, -(-n // LANES) * LANES))  # padded to whole vector registers
    x[:n], y[:n] = problem.x.numpy(), problem.y.numpy()
    after, last = thetas.copy(), thetas.copy()
    losses, done = np.empty((len(thetas), steps)), np.zeros(len(thetas), dtype=np.int64)
    one, many = _kernels()
    relu = problem.model.activation == "relu"
    if len(thetas) == 1:
        done[0] = one(after[0], last[0], losses[0], lrs[0], problem.prefactor, x, y, n, relu)
    else:
        many(after, last, losses, done, lrs, problem.prefactor, x, y, n, relu)
    return losses, done, last, after


def hessian(problem, theta):
    """∇²L(θ) in closed form, shape (dim, dim): 2p(JᵀJ + Σ_i r_i ∇²f_i), whose second part couples w_j, b_j, a_j only.

    For ReLU h'' is 0, as autograd has it: the kinks are not there.
    """
    x, y, m = problem.x.numpy(), problem.y.numpy(), problem.model.width
    a, w, b, c = np.split(theta.numpy(), [m, 2 * m, 3 * m])
    z = np.multiply.outer(x, w) + b
    if problem.model.activation == "tanh":
        h = np.tanh(z)
        h1 = 1 - h * h
        h2 = -2 * h * h1
    else:
        h1 = (z > 0).astype(float)
        h, h2 = z * h1, np.zeros_like(z)
    r = h @ a + c - y
    ah1 = a * h1
    jacobian = np.concatenate([h, ah1 * x[:, None], ah1, np.ones((len(x), 1))], axis=1)
    total = jacobian.T @ jacobian
    powers = np.stack([r, r * x, r * x * x])
    bb, wb, ww = (powers @ h2) * a
    ba, wa, _ = powers @ h1
    at_a, at_w, at_b = np.arange(3 * m).reshape(3, m)
    for block, rows, columns in ((ww, at_w, at_w), (bb, at_b, at_b)):
        total[rows, columns] += block
    for block, rows, columns in ((wb, at_w, at_b), (wa, at_w, at_a), (ba, at_b, at_a)):
        total[rows, columns] += block
        total[columns, rows] += block
    return torch.from_numpy(2 * problem.prefactor * total)


def _numpy(theta, last, losses, lr, p, x, y, n, relu):
    """The kernel in NumPy: θ and the last θ with a finite loss in place, the number of finite losses returned."""
    x, y, m = x[:n], y[:n], (len(theta) - 1) // 3
    for t in range(len(losses)):
        a, w, b = theta[:m], theta[m : 2 * m], theta[2 * m : 3 * m]
        with np.errstate(over="ignore", invalid="ignore"):
            z = np.multiply.outer(x, w) + b
            h = np.maximum(z, 0) if relu else np.tanh(z)
            r = h @ a + (theta[-1] - y)
            losses[t] = p * (r @ r)
            if not math.isfinite(losses[t]):
                return t
            last[:] = theta
            h1 = (z > 0) if relu else 1 - h * h
            s = (-2 * p * lr) * r
            change = s @ h, ((s * x) @ h1) * a, (s @ h1) * a, [s.sum()]
            theta += np.concatenate(change)
    return len(losses)


def _numpy_many(thetas, lasts, losses, done, lrs, p, x, y, n, relu):
    for k in range(len(thetas)):
        done[k] = _numpy(thetas[k], lasts[k], losses[k], lrs[k], p, x, y, n, relu)


@cache
def _kernels():
    """The kernels for one net and for many: compiled at their first call and then read from numba's cache."""
    try:
        from . import _two_layer_numba
    except ImportError:
        warnings.warn("numba is not installed: two-layer nets train in NumPy, several times slower", stacklevel=2)
        return _numpy, _numpy_many
    return _two_layer_numba.one, _two_layer_numba.many
