"""The average gradient outer product (AGOP) of a network, its alignment with another, and exact ones.

    G = (1/n) Σ_i Σ_a ∇f_a(x_i) ∇f_a(x_i)ᵀ,

gradients by the input, shape (d, d) (Radhakrishnan et al. 2024; *Catapults in SGD*, section 4). It is kept as a factor
F with G = FᵀF, because what one asks of it (traces, norms, alignment) is cheaper from F. Where the input is read by
one linear layer with weights W₁ alone, ∇f = W₁ᵀg with g the derivative by that layer's output, so that G =
W₁ᵀ(Σ g gᵀ/n)W₁ is a product over the layer's width, often far below both n and d.
"""

from functools import cached_property

import torch

from . import _checks, _layers


class AGOP:
    """G = FᵀF, positive semi-definite of shape (d, d), by its factor F of shape (rows, d).

    `matrix` is G, formed when it is first asked for; `norm` its Frobenius norm and `trace` its trace, which need no
    G. `F` has as many rows as the cheapest route gave: samples times outputs, or the first layer's width.
    """

    def __init__(self, F):
        self.F = _checks.tensor("F", F)
        if self.F.ndim != 2:
            raise ValueError(f"F must have shape (rows, d), not {tuple(self.F.shape)}")

    @property
    def d(self):
        return self.F.shape[1]

    @cached_property
    def matrix(self):
        """G, a tensor of shape (d, d)."""
        return self.F.T @ self.F

    @cached_property
    def norm(self):
        """‖G‖_F, a float, from the smaller of FFᵀ and FᵀF."""
        return (self.F @ self.F.T if len(self.F) < self.d else self.matrix).norm().item()

    @property
    def trace(self):
        return (self.F**2).sum().item()

    @property
    def diagonal(self):
        """The diagonal of G, shape (d,): how much each input matters."""
        return (self.F**2).sum(0)


def agop(model, theta, x, block=1024):
    """The AGOP of a model's outputs at the points x.

    Parameters
    ----------
    model : callable
        f(θ, x), outputs (n,) or (n, outputs); a `networks.Network` is differentiated by layers. Samples
        must be independent of one another.
    theta : tensor, shape (model.dim,)
    x : tensor, shape (n, …): the points; d is the number of their entries. Of θ's dtype.
    block : int: points to send through the model at a time.

    Returns
    -------
    AGOP

    Raises ValueError for NaN in x or a network that mixes samples or is random, FloatingPointError where a
    gradient is not finite.
    """
    x, theta = _checks.tensor("x", x), _checks.tensor("theta", theta)
    if x.ndim < 2:
        raise ValueError(f"x must have shape (n, …) with inputs of several entries, not {tuple(x.shape)}")
    network = _layers.network_of(model)
    first = _first_layer(network, theta, x) if network else None
    n, d = len(x), x[0].numel()
    name, module = first or (None, None)
    width = module.out_features if first else d
    rows, gram = [], None
    for part in x.split(_checks.count("block", block)):
        g = _first_derivatives(network, theta, part, name, module) if first else _input_gradients(model, theta, part)
        if gram is None and sum(map(len, rows)) + len(g) <= width:
            rows.append(g)  # fewer gradients than columns: keep them
            continue
        gram = g.new_zeros(width, width) if gram is None else gram
        for kept in (*rows, g):
            gram.addmm_(kept.T, kept)
        rows = []
    factor = torch.cat(rows) if gram is None else _root(gram)
    factor = factor / n**0.5
    if first:
        factor = factor @ (network.split(theta)[f"{name}.weight".lstrip(".")].detach() * _layers.scale_of(module))
    if not torch.isfinite(factor).all():
        raise FloatingPointError("theta gives gradients with NaN or infinite entries")
    return AGOP(factor)


def _root(gram):
    """A factor R with RᵀR = gram, of as many rows as its rank."""
    values, vectors = torch.linalg.eigh(gram)
    keep = values > values[-1].clamp_min(0) * torch.finfo(gram.dtype).eps * len(gram)
    keep[-1] = True
    return (vectors[:, keep] * values[keep].clamp_min(0).sqrt()).T


def _first_layer(network, theta, x):
    """(name, module) of the linear layer that alone reads the input, or None; found by running one point."""
    modules = {name: m for name, m in _layers.layered(network).items() if type(m) in _layers.LINEAR}
    if not modules:
        return None
    point = x[:1].clone().requires_grad_()
    seen = []

    def hook(name):
        def catch(module, inputs, output):
            seen.append((name, module, inputs[0]))
            return output.detach() if len(seen) == 1 else None

        return catch

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        outputs = network(theta.detach(), point)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        return None
    name, module, read = seen[0]
    plain = read.ndim == 2 and read.shape[1] == point[0].numel() and torch.equal(read, point.flatten(1))
    if not plain or outputs.requires_grad or sum(s[0] == name for s in seen) > 1:
        return None
    return name, module


def _first_derivatives(network, theta, x, name, module):
    """∂f_a(x_i)/∂(first layer's output), shape (n·outputs, width)."""
    outputs, calls = _layers.see(network, network.state(theta.detach()), x, {name: module})
    return _columns(outputs, lambda column, last: _layers.derivatives(column, calls, last)[0])


def _input_gradients(model, theta, x):
    """∇f_a(x_i), shape (n·outputs, d): the gradient of a sum over independent samples holds each sample's own."""
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        outputs = model(theta.detach(), x)

    def gradient(column, last):
        if not column.requires_grad:
            return torch.zeros_like(x)
        found = torch.autograd.grad(column.sum(), x, retain_graph=not last, allow_unused=True)[0]
        return torch.zeros_like(x) if found is None else found

    return _columns(outputs, gradient).detach()


def _columns(outputs, derivative):
    outputs = outputs.reshape(len(outputs), -1)
    k = outputs.shape[1]
    return torch.cat([derivative(outputs[:, a], a == k - 1).flatten(1) for a in range(k)])


def alignment(first, second):
    """cos(G₁, G₂) = tr(G₁G₂)/(‖G₁‖_F‖G₂‖_F), between 0 and 1 (*Catapults in SGD*, section 4), a float.

    For two AGOPs. No d×d matrix is formed where either has fewer rows than d, as tr(G₁G₂) = ‖F₁F₂ᵀ‖².
    Raises ValueError for different d or an AGOP that is zero.
    """
    if first.d != second.d:
        raise ValueError(f"first and second must have as many inputs, not {first.d} and {second.d}")
    if first.trace == 0 or second.trace == 0:
        raise ValueError("alignment of an AGOP that is zero is not defined")
    if min(len(first.F), len(second.F)) < first.d:
        inner = (first.F @ second.F.to(first.F).T).square().sum().item()
    else:
        inner = (first.matrix * second.matrix.to(first.matrix)).sum().item()
    return inner / (first.norm * second.norm)


def expected(target, d):
    """The exact AGOP of a target over x ~ N(0, I_d): G* = E[∇f*(x) ∇f*(x)ᵀ] (*Catapults in SGD*, appendix F).

    Parameters
    ----------
    target : data.Polynomial, or "full rank"
        A polynomial's from the moments of the normal distribution, E[x^2m] = (2m-1)!!; and f* = ‖x‖/√d,
        whose gradient x/(‖x‖√d) gives G* = I/d².
    d : int

    Returns
    -------
    AGOP, with as many rows as G* has rank.
    """
    d = _checks.count("d", d)
    if isinstance(target, str):
        _checks.choice("target", target, ("full rank",))
        return AGOP(torch.eye(d, dtype=torch.float64) / d)
    gradient = target.gradient(d)
    active = [i for i in range(d) if gradient[i]]
    small = torch.tensor([[(gradient[i] * gradient[j]).expectation() for j in active] for i in active])
    factor = _root(small.double())
    out = torch.zeros(len(factor), d, dtype=torch.float64)
    out[:, active] = factor
    return AGOP(out)
