"""The tangent kernel of a network, its top eigenspace, and the critical learning rates it gives.

K = J Jᵀ with J = ∂f(θ, x)/∂θ: one row and column an output, K_(i,a),(j,b) = ⟨∂f_a(x_i)/∂θ, ∂f_b(x_j)/∂θ⟩ (Jacot et
al. 2018). For a squared loss p Σr² the Gauss-Newton part of the Hessian is 2p JᵀJ. Near a fit, or for a wide net,
λmax ≈ 2p‖K‖, so η_crit = 2/λmax ≈ 1/(p‖K‖), which is n/‖K‖ for the mean squared error (*Catapults in SGD*,
appendix A).

J is never formed whole. A linear layer's share of K is the product of two Gram matrices, (AAᵀ) ∘ (BBᵀ) for its
inputs A and the outputs' derivatives B; a convolution's comes from its samples' weight gradients, a few channels at a
time; any other parameter's from a gradient a sample.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from . import _checks, _layers, curvature
from .problem import LOSSES

ROWS = 1024  # of K at a time


def kernel(fit, theta, memory=1e9, block=None):
    """The tangent kernel K of a fit's network at θ, on all its points.

    Parameters
    ----------
    fit : Fit
        Any model: a `networks.Network` is taken layer by layer, others by one gradient an output.
    theta : array or tensor, shape (dim,)
    memory : float
        Bytes for what is kept of all points at once (layers' inputs, per-sample gradients) beside K and
        the data. Where that is not enough, parts of the parameters are done one after another, each with
        its own pass over the data.
    block : int, optional
        Points to send through the network at a time; 256 unless given, or the fit's own chunk.

    Returns
    -------
    tensor, shape (n·outputs, n·outputs), symmetric, of θ's dtype and on its device, in the order of
    `fit.outputs(theta).reshape(-1)`.

    Raises ValueError for a network that mixes its samples (batch normalisation in training mode) or is
    random (dropout in training mode), FloatingPointError where K is not finite, and MemoryError for a K
    larger than what the machine has free: use `norm` then, which needs no K.
    """
    theta = fit.parameters(theta)
    network = _layers.network_of(fit.model)
    block = min(fit.chunk, 256) if block is None else _checks.count("block", block)
    source = _Layers(fit, network, theta, block) if network else _Samples(fit, theta)
    total = len(fit) * source.k
    _checks.fits("the tangent kernel", 2 * total**2 * theta.element_size(), "use tangent.norm, which forms no kernel")
    out = torch.zeros(total, total, dtype=theta.dtype, device=theta.device)
    for shares in _passes(source.shares(memory), memory):
        for start in range(0, len(fit), block):
            source.fill(shares, slice(start, min(start + block, len(fit))))
        for share in shares:
            share.add_to(out)
    _mirror(out)
    if not torch.isfinite(out).all():
        raise FloatingPointError("theta gives a tangent kernel with NaN or infinite entries")
    return out


def _passes(shares, memory):
    """The shares in groups that keep no more than `memory` bytes, at least one a group."""
    group, used = [], 0
    for share in shares:
        if group and used + share.bytes > memory:
            yield group
            group, used = [], 0
        group.append(share)
        used += share.bytes
    yield group


def _triangle(n):
    """Blocks of rows and the columns up to the diagonal's block: all that a symmetric matrix needs."""
    for start in range(0, n, ROWS):
        stop = min(start + ROWS, n)
        yield slice(start, stop), slice(0, stop)


def _mirror(matrix):
    """Copy the lower triangle of a square matrix onto the upper, block by block, in place."""
    for rows, _ in _triangle(len(matrix)):
        left = slice(0, rows.start)
        matrix[left, rows] = matrix[rows, left].T
        corner = matrix[rows, rows]
        corner.copy_((corner + corner.T) / 2)


class _Gradients:
    """One gradient a row: some parameters' share of J, of shape (n·outputs, columns)."""

    def __init__(self, fit, theta, k, name, columns):
        self.name, self.columns = name, columns
        self.shape = len(fit) * k, columns.stop - columns.start
        self.bytes = self.shape[0] * self.shape[1] * theta.element_size()
        self.theta, self.rows = theta, None

    def put(self, rows, values):
        if self.rows is None:
            self.rows = self.theta.new_empty(self.shape)
        self.rows[rows] = values

    def add_to(self, out):
        for rows, columns in _triangle(len(out)):
            out[rows, columns].addmm_(self.rows[rows], self.rows[columns].T)
        self.rows = None


class _Factors:
    """A linear layer's share: A, (n, inputs), and B, (n·outputs, width), for K += AAᵀ ∘ BBᵀ."""

    def __init__(self, fit, theta, k, name, module):
        self.name, self.k, self.theta, self.scale = name, k, theta, _layers.scale_of(module)
        self.sizes = len(fit), module.in_features, module.out_features
        n, inputs, width = self.sizes
        self.bytes = (n * inputs + n * k * width) * theta.element_size()
        self.inputs = self.derivatives = None

    def put(self, points, a, b):
        n, inputs, width = self.sizes
        if len(a) == n:  # all points at once: nothing to collect
            self.inputs, self.derivatives = a, b.reshape(n * self.k, width)
            return
        if self.inputs is None:
            self.inputs = self.theta.new_empty(n, inputs)
            self.derivatives = self.theta.new_empty(n * self.k, width)
        self.inputs[points] = a
        self.derivatives.view(n, self.k, width)[points] = b

    def add_to(self, out):
        for rows, columns in _triangle(len(out)):
            first, last = rows.start // self.k, -(-rows.stop // self.k)
            inputs = self.inputs[first:last] @ self.inputs[: -(-columns.stop // self.k)].T
            if self.k > 1:
                inputs = inputs.repeat_interleave(self.k, 0).repeat_interleave(self.k, 1)
                inputs = inputs[rows.start - first * self.k :][: rows.stop - rows.start, : columns.stop]
            outer = self.derivatives[rows] @ self.derivatives[columns].T
            out[rows, columns].addcmul_(inputs, outer, value=self.scale**2)
        self.inputs = self.derivatives = None


class _Samples:
    """The generic route: any model, by one gradient an output of a sample."""

    def __init__(self, fit, theta):
        self.fit, self.theta = fit, theta
        with torch.no_grad():
            self.k = fit.model(theta, fit.x[:1]).numel()
        self.jacobian = _per_sample(lambda theta, x: fit.model(theta, x[None]).reshape(-1), self.k)

    def shares(self, memory):
        return _slices(self.fit, self.theta, self.k, "theta", self.fit.dim, 1, memory)

    def fill(self, shares, points):
        rows = self.jacobian(self.theta, self.fit.x[points]).flatten(0, 1)
        for share in shares:
            share.put(slice(points.start * self.k, points.stop * self.k), rows[:, share.columns])


def _per_sample(function, k):
    """x ↦ the Jacobian of function(parameters, x_i) by its parameters, for every i: (n, k, …)."""
    derivative = torch.func.jacrev(function) if k > 1 else torch.func.grad(lambda p, x: function(p, x)[0])
    mapped = torch.func.vmap(derivative, in_dims=(None, 0))
    return mapped if k > 1 else lambda p, x: torch.utils._pytree.tree_map(lambda g: g[:, None], mapped(p, x))


def _slices(fit, theta, k, name, size, unit, memory):
    """`_Gradients` for `size` parameters, cut at multiples of `unit` into pieces of at most `memory` bytes."""
    step = max(int(memory // (len(fit) * k * theta.element_size())) // unit, 1) * unit
    return [_Gradients(fit, theta, k, name, slice(i, min(i + step, size))) for i in range(0, size, step)]


class _Layers:
    """A network layer by layer; what is no plain layer's weight takes the generic route.

    The first block's forward pass tells the layers' shapes too, and is kept until that block is filled in.
    """

    def __init__(self, fit, network, theta, block):
        self.fit, self.network, self.theta = fit, network, theta
        self.state = network.state(theta)
        self.modules = _layers.layered(network)
        self.first = outputs, calls = _layers.see(network, self.state, fit.x[:block], self.modules)
        self.k = outputs[0].numel()
        self.axes = {name: [a.ndim for a, _ in pairs] for name, pairs in calls.items()}
        self.modules = {name: module for name, module in self.modules.items() if name in calls}
        mine = {f"{name}.{a}".lstrip(".") for name, m in self.modules.items() for a, _ in m.named_parameters()}
        self.others = [name for name in network.shapes if name not in mine]

    def shares(self, memory):
        fit, theta, k = self.fit, self.theta, self.k
        found = []
        for name, module in self.modules.items():
            weight = module.weight[0].numel()
            if self._is_flat(name):
                found.append(_Factors(fit, theta, k, name, module))
            else:
                found += _slices(fit, theta, k, name, module.weight.numel(), weight, memory)
            if module.bias is not None:
                found += _slices(fit, theta, k, f"{name}.bias", len(module.bias), 1, memory)
        size = sum(self.state[name].numel() for name in self.others)
        return found + (_slices(fit, theta, k, "", size, 1, memory) if size else [])

    def _is_flat(self, name):
        """Whether the layer is linear, and reads one row a sample, once."""
        return type(self.modules[name]) in _layers.LINEAR and self.axes[name] == [2]

    def fill(self, shares, points):
        x, k = self.fit.x[points], self.k
        n, rows = len(x), slice(points.start * k, points.stop * k)
        layers = [share for share in shares if share.name]
        if layers:
            fresh = points.start > 0 or self.first is None
            seen = _layers.see(self.network, self.state, x, self.modules) if fresh else self.first
            self.first = None
            outputs, calls = seen[0].reshape(n, k), seen[1]
            columns = [_layers.derivatives(outputs[:, a], calls, last=a == k - 1) for a in range(k)]
            # for every layer its calls as (inputs, derivatives), the derivatives of all outputs: (n, k, …)
            join = torch.stack if k > 1 else lambda parts, axis: parts[0].unsqueeze(axis)
            stacked = iter([join(parts, 1) for parts in zip(*columns, strict=True)])
            seen = {name: [(a, next(stacked)) for a, _ in pairs] for name, pairs in calls.items()}
            for share in layers:
                name = share.name.removesuffix(".bias")
                if isinstance(share, _Factors):
                    ((a, b),) = seen[name]
                    share.put(points, a, b)
                elif name != share.name:
                    share.put(
                        rows, sum(_bias_gradients(self.modules[name], b) for _, b in seen[name])[:, share.columns]
                    )
                else:
                    module, c = self.modules[name], share.columns
                    share.put(rows, sum(_weight_gradients(module, a, b, c) for a, b in seen[name]))
        rest = [share for share in shares if not share.name]
        if rest:
            gradients = self._other_gradients(x).flatten(0, 1)
            for share in rest:
                share.put(rows, gradients[:, share.columns])

    def _other_gradients(self, x):
        fixed = {name: part for name, part in self.state.items() if name not in self.others}

        def outputs(others, x):
            return self.network.run(fixed | others, x[None]).reshape(-1)

        gradients = _per_sample(outputs, self.k)({name: self.state[name] for name in self.others}, x)
        return torch.cat([gradients[name].flatten(2) for name in self.others], 2).detach()


def _weight_gradients(module, inputs, derivatives, columns):
    """A layer's weight gradients, one a row, (n·outputs, columns), for whole output channels.

    inputs: (n, …, in) or (n, in, h, w); derivatives: (n, k, …, out) or (n, k, out, h, w).
    """
    n, k = derivatives.shape[:2]
    weight = module.weight[0].numel()
    channels = slice(columns.start // weight, columns.stop // weight)
    scale = _layers.scale_of(module)
    if type(module) in _layers.LINEAR:
        a = inputs.reshape(n, -1, inputs.shape[-1])
        b = derivatives.reshape(n, k, -1, derivatives.shape[-1])[..., channels]
        return torch.einsum("nkto,nti->nkoi", b, a).reshape(n * k, -1) * scale
    if module.groups > 1:
        channels = slice(0, module.out_channels)
    b = derivatives[:, :, channels] * scale
    shape = (b.shape[2], *module.weight.shape[1:])
    options = {"stride": module.stride, "dilation": module.dilation, "groups": module.groups}
    inputs, padding = _padded(module, inputs)
    rows = [
        torch.nn.grad.conv2d_weight(inputs[i : i + 1], shape, b[i, a : a + 1], padding=padding, **options).reshape(-1)
        for i in range(n)
        for a in range(k)
    ]
    rows = torch.stack(rows)
    return rows[:, columns] if module.groups > 1 else rows


def _padded(module, inputs):
    """The inputs and the padding still to be done; "same" and "valid" in numbers."""
    if not isinstance(module.padding, str):
        return inputs, module.padding
    return functional.pad(inputs, module._reversed_padding_repeated_twice), 0


def _bias_gradients(module, derivatives):
    """(n·outputs, out): the derivatives summed over tokens or pixels."""
    n, k = derivatives.shape[:2]
    if type(module) in _layers.LINEAR:
        return derivatives.reshape(n, k, -1, derivatives.shape[-1]).sum(2).flatten(0, 1)
    return derivatives.flatten(3).sum(3).flatten(0, 1)


class TopSpace(NamedTuple):
    """The s largest eigenvalues of a kernel, descending, shape (s,), and unit eigenvectors as columns, (n, s)."""

    values: np.ndarray
    vectors: torch.Tensor


def top_space(K, s):
    """The top-s eigenspace of a symmetric kernel K, shape (n, n).

    Raises ValueError for a K that is not square or not finite, or an s larger than n.
    """
    K = _square(K)
    if _checks.count("s", s) > len(K):
        raise ValueError(f"s must be at most the size of K, {len(K)}, not {s}")
    if len(K) <= 1000:
        values, vectors = torch.linalg.eigh(K)
        return TopSpace(values.flip(0)[:s].double().cpu().numpy(), vectors.flip(1)[:, :s])
    pairs = curvature.lanczos(K.mv, _start(K), s, tol=1e-6, most=len(K))
    return TopSpace(pairs.values, pairs.vectors)


def _square(K):
    K = _checks.tensor("K", K)
    if K.ndim != 2 or K.shape[0] != K.shape[1]:
        raise ValueError(f"K must be square, not of shape {tuple(K.shape)}")
    return K


def _start(like, size=None):
    draw = np.random.default_rng(0).standard_normal(len(like) if size is None else size)
    return torch.from_numpy(draw).to(like)


def norm(fit_or_kernel, theta=None, tol=1e-4):
    """The spectral norm ‖K‖ = λmax(K), a float.

    Parameters
    ----------
    fit_or_kernel : tensor, shape (n, n), or Fit
        A kernel; or a fit, for which no kernel is formed: a Lanczos on u ↦ J(Jᵀu), one backward and one
        forward derivative a product, in the fit's chunks.
    theta : array or tensor, shape (dim,), with a fit
    tol : float
        The relative error, without a kernel.
    """
    if theta is None:
        K = _square(fit_or_kernel)
        if len(K) <= 400:
            return torch.linalg.eigvalsh(K)[-1].item()
        return curvature.lanczos(K.mv, _start(K), tol=1e-6).values[0].item()
    fit = fit_or_kernel
    theta = fit.parameters(theta)
    _layers.network_of(fit.model)
    shape = fit.outputs(theta).shape

    def product(u):
        return fit.jvp(theta, fit.vjp(theta, u.view(shape))).reshape(-1)

    return curvature.lanczos(product, _start(theta, shape.numel()), tol=tol).values[0].item()


def split_loss(fit, theta, vectors):
    """The loss within a space of outputs, and the rest: (L≤s, L>s), floats whose sum is the loss.

    `vectors`, shape (n·outputs, s): an orthonormal basis, as `top_space(K, s).vectors`. With r the residuals
    and p the loss's prefactor, L≤s = p‖Vᵀr‖² (*Catapults in SGD*, equation 5).
    """
    _squared(fit)
    r = fit.residuals(theta).reshape(-1)
    vectors = vectors[:, None] if vectors.ndim == 1 else vectors
    if len(vectors) != len(r):
        raise ValueError(f"vectors must have {len(r)} rows, one an output, not {len(vectors)}")
    within = fit.prefactor * ((vectors.T.to(r) @ r) ** 2).sum().item()
    return within, max(fit.prefactor * (r**2).sum().item() - within, 0.0)


class Watch:
    """A probe of `descent` that computes the kernel once a step: ‖K‖, L≤s and L>s, an array of shape (3,).

        watch = Watch(5)
        run = sgd(fit, theta, lr, steps, 32, record={"kernel": watch, "critical": on_batch(watch.of_batch)})

    Parameters
    ----------
    s : int
        The dimension of the top eigenspace, that of K at the same step.

    `K` holds the kernel of the last step and `space` its `TopSpace`. `of_batch` is a probe for `on_batch` that gives
    the critical learning rate of each step's batch from that kernel, of which the batch's is a block.
    """

    def __init__(self, s=5):
        self.s, self.K, self.space = _checks.count("s", s), None, None

    def __call__(self, fit, theta):
        self.K = kernel(fit, theta)
        self.space = top_space(self.K, self.s)
        return np.array([self.space.values[0], *split_loss(fit, theta, self.space.vectors)])

    def of_batch(self, fit, theta, batch):
        if self.K is None:
            raise ValueError("of_batch needs the kernel of the step: record the Watch itself too")
        return batch_critical_learning_rates(fit, self.K, batch[None])[0]


def critical_learning_rate(fit, K):
    """η_crit = 1/(p‖K‖), n/‖K‖ for the mean squared error: 2/λmax of the Gauss-Newton matrix, a float."""
    _squared(fit)
    top = norm(K)
    return 1 / (fit.prefactor * top) if top > 0 else np.inf


def batch_critical_learning_rates(fit, K, batches):
    """η_crit of each batch, from the kernel of the whole set: a batch's kernel is a block of it.

    Parameters
    ----------
    fit : Fit
    K : tensor, shape (n·outputs, n·outputs)
        `kernel(fit, theta)`, computed once for all batches.
    batches : array of ints, shape (batches, b)
        The points of each.

    Returns
    -------
    ndarray, shape (batches,), float64: b/‖K_b‖ for the mean squared error.
    """
    _squared(fit)
    K = _square(K)
    index = torch.as_tensor(np.asarray(batches), device=K.device).long()
    if index.ndim != 2 or index.numel() == 0:
        raise ValueError(f"batches must be of shape (batches, points), not {tuple(index.shape)}")
    n = len(fit)
    if index.min() < 0 or index.max() >= n:
        raise ValueError(f"batches name points from {int(index.min())} to {int(index.max())}; the fit has 0 to {n - 1}")
    k = len(K) // n
    if k * n != len(K):
        raise ValueError(f"K of size {len(K)} is no kernel of a fit of {n} points")
    rows = (index[:, :, None] * k + torch.arange(k, device=K.device)).flatten(1)
    tops = [torch.linalg.eigvalsh(K[part[:, :, None], part[:, None, :]])[:, -1] for part in rows.split(256)]
    prefactor = LOSSES[fit.loss_name](index.shape[1])
    return 1 / (prefactor * torch.cat(tops).double().cpu().numpy().clip(np.finfo(float).tiny))


def _squared(fit):
    if fit.loss_name not in LOSSES:
        raise ValueError(f"fit must have a squared loss ({', '.join(LOSSES)}), not {fit.loss_name}")
