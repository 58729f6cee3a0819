"""A loss of one flat parameter vector θ, with its gradient and Hessian-vector product.

Everything else in the package works on a `Problem`. The toys of the first chapters are Problems made
from a function of two lines; a network on data is a `Fit`, which also knows outputs and residuals.
"""

from copy import copy
from functools import cached_property

import torch
from torch.nn import functional

from . import _checks

LOSSES = {"mse": lambda n: 1 / n, "half_mse": lambda n: 1 / (2 * n), "half_sse": lambda n: 1 / 2}
"""The sources' conventions, as the prefactor of Σr² for n points: "mse" is (1/n)Σr², "half_mse" is (1/2n)Σr²,
"half_sse" is ½Σr². They differ by a factor, and so does every 2/η."""


class Problem:
    """A twice differentiable loss L(θ) of one flat vector θ.

    Parameters
    ----------
    loss : callable
        Takes θ, a float tensor of shape (dim,), and returns a tensor of one element; written in torch
        operations, so that autograd can differentiate it twice.
    dim : int
        The number of parameters.
    inside : callable, optional
        Takes θ and says whether it lies in the loss's domain. `descent.gd` stops where it does not.

    Methods take θ as a tensor or anything `numpy.asarray` takes, of shape (dim,), and return detached
    tensors of θ's dtype (float64 unless a float tensor says otherwise). A θ of another shape raises a
    ValueError.
    """

    def __init__(self, loss, dim, inside=None):
        if not callable(loss):
            raise TypeError(f"loss must be a function of θ, not {type(loss).__name__}")
        self._loss = loss
        self.dim = _checks.count("dim", dim)
        self.inside = inside

    def parameters(self, theta):
        """θ as a detached float tensor of shape (dim,); ValueError that names the shape otherwise."""
        if not isinstance(theta, torch.Tensor):
            theta = torch.as_tensor(theta, dtype=torch.float64)
        if theta.shape != (self.dim,):
            raise ValueError(f"theta must have shape ({self.dim},), not {tuple(theta.shape)}")
        if not theta.is_floating_point():
            theta = theta.double()
        return theta.detach()

    def _terms(self, theta):
        """The loss as functions to be called in turn and summed, so that only one graph lives at a time."""
        return [lambda: self._loss(theta)]

    def _values(self, theta):
        for term in self._terms(theta):
            loss = term()
            if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
                raise ValueError("loss must return a tensor of one element")
            yield loss.reshape(())

    def loss(self, theta):
        """L(θ), a tensor of shape ()."""
        with torch.no_grad():
            return sum(self._values(self.parameters(theta)))

    def grad(self, theta):
        """∇L(θ), shape (dim,)."""
        return self.loss_and_grad(theta)[1]

    def loss_and_grad(self, theta):
        """(L(θ), ∇L(θ)) for the price of the gradient."""
        theta = self.parameters(theta).requires_grad_(True)
        pairs = [(loss.detach(), _derivative(loss, theta)) for loss in self._values(theta)]
        return sum(loss for loss, _ in pairs), sum(gradient for _, gradient in pairs)

    def hvp(self, theta, v):
        """The Hessian-vector product ∇²L(θ)v, shape (dim,)."""
        return self.hessian_operator(theta)(v)

    def hessian(self, theta):
        """∇²L(θ), shape (dim, dim), symmetric: every row of the identity sent through one retained graph."""
        theta = self.parameters(theta).requires_grad_(True)
        rows = torch.zeros(self.dim, self.dim, dtype=theta.dtype, device=theta.device)
        for loss in self._values(theta):
            gradient = _derivative(loss, theta, create_graph=True)
            if gradient.requires_grad:
                rows += _derivative(gradient, theta, torch.eye(self.dim).to(rows), is_grads_batched=True)
        return (rows + rows.T) / 2

    def hessian_operator(self, theta, how="reverse", step=None):
        """The map v ↦ ∇²L(θ)v at one θ, for many products: a function of a vector of shape (dim,).

        Parameters
        ----------
        how : {"reverse", "forward", "difference"}
            "reverse" builds the graph of ∇L(θ) once, keeps it while the operator lives, and sends v back
            through it; over chunks of data it rebuilds each chunk's graph, and keeps none. "forward" is
            the forward derivative of ∇L: no graph is kept. "difference" is the central difference
            (∇L(θ + hv̂) - ∇L(θ - hv̂))‖v‖/2h with v̂ = v/‖v‖: *another quantity* where the loss has kinks. On ReLU nets
            automatic differentiation leaves out the jumps of ∇L at the kinks that lie within h of θ, and the
            difference counts them, which no smaller h mends.
        step : float, optional
            h, for "difference" only: the distance in parameter space, 1e-3 unless given.
        """
        theta = self.parameters(theta)
        if step is not None and how != "difference":
            raise ValueError(f'step is for how="difference", not for how={how!r}')
        build = _OPERATORS[_checks.choice("how", how, _OPERATORS)]
        apply = build(self, theta, 1e-3 if step is None else _checks.positive("step", step))

        def operator(v):
            return apply(self.parameters(v).to(theta))

        return operator


def _reverse(problem, theta, _):
    theta = theta.requires_grad_(True)
    terms = problem._terms(theta)
    if len(terms) > 1:

        def product(v):
            return sum(
                _second(_derivative(loss, theta, create_graph=True), theta, v) for loss in problem._values(theta)
            )

        return product
    (loss,) = problem._values(theta)
    gradient = _derivative(loss, theta, create_graph=True)
    return lambda v: _second(gradient, theta, v)


def _forward(problem, theta, _):
    def product(v):
        return sum(
            torch.func.jvp(torch.func.grad(lambda at, k=k: list(problem._terms(at))[k]().reshape(())), (theta,), (v,))[
                1
            ]
            for k in range(len(problem._terms(theta)))
        )

    return product


def _difference(problem, theta, step):
    def product(v):
        length = v.norm()
        if length == 0:
            return torch.zeros_like(v)
        shift = v * (step / length)
        return (problem.grad(theta + shift) - problem.grad(theta - shift)) * (length / (2 * step))

    return product


_OPERATORS = {"reverse": _reverse, "forward": _forward, "difference": _difference}


def _second(gradient, theta, v):
    if not gradient.requires_grad:  # a loss linear in θ
        return torch.zeros_like(v)
    return _derivative(gradient, theta, v, retain_graph=True)


def _derivative(output, theta, v=None, **options):
    """v-weighted derivative of `output` by θ; zeros where it does not depend on θ."""
    (g,) = torch.autograd.grad(output, theta, v, allow_unused=True, **options)
    if g is None:
        return torch.zeros_like(theta if v is None or v.ndim == 1 else v)
    return g


class Fit(Problem):
    """A model fitted to data: L(θ) is a loss of the outputs f(θ, x) and the targets y.

    Parameters
    ----------
    model : callable
        f(θ, x), outputs of the shape of y; a network of `networks`, or any function in torch operations.
    x, y : array or tensor
        Inputs of shape (n, …) and targets of shape (n,) or (n, outputs); float64 unless float tensors.
        For "cross_entropy" y holds the classes 0, 1, …, shape (n,), and the outputs are (n, classes).
    loss : {"mse", "half_mse", "half_sse", "cross_entropy"}
        (1/n)Σr², (1/2n)Σr² or ½Σr² with r = f(θ, x) - y (see `LOSSES`), or the mean of -log softmax(f)_y.
    dim : int, optional
        The number of parameters; `model.dim` if the model has one.
    chunk : int, optional
        Points to send through the model at a time. The loss and its derivatives are the same sums; a
        graph then holds only so many points.

    Raises ValueError for an empty set, NaN or infinite data, x and y of different length, and, at the
    first use, outputs that do not fit y.
    """

    def __init__(self, model, x, y, loss="mse", dim=None, chunk=None):
        if dim is None and not hasattr(model, "dim"):
            raise ValueError("dim must be given for a model without a dim attribute")
        self.loss_name = _checks.choice("loss", loss, (*LOSSES, "cross_entropy"))
        self.x = _checks.tensor("x", x)
        self.y = _classes(y) if loss == "cross_entropy" else _checks.tensor("y", y)
        if self.x.ndim == 0 or self.y.ndim == 0 or self.x.shape[0] != self.y.shape[0]:
            raise ValueError(
                f"x and y must hold as many points, not shapes {tuple(self.x.shape)} and {tuple(self.y.shape)}"
            )
        self.model = model
        self.prefactor = self._prefactor(len(self))
        self.chunk = len(self) if chunk is None else _checks.count("chunk", chunk)
        self.dim, self.inside = _checks.count("dim", dim or model.dim), None

    def _prefactor(self, n):
        return 1 / n if self.loss_name == "cross_entropy" else LOSSES[self.loss_name](n)

    def __len__(self):
        """n, the number of points."""
        return len(self.y)

    def batch(self, index):
        """The same model on the points `index` alone, a `Fit` whose means are over the batch."""
        index = torch.as_tensor(index, device=self.y.device)
        if index.ndim != 1 or len(index) == 0:
            raise ValueError(f"index must be a non-empty list of points, not of shape {tuple(index.shape)}")
        return self._batch(index)

    def _batch(self, index):
        """`batch` without the checks, and without another look at the data."""
        part = copy(self)
        part.x, part.y = self.x[index], self.y[index]
        part.chunk = min(self.chunk, len(part.y))
        part.prefactor = self._prefactor(len(part.y))
        return part

    def to(self, *args, **kwargs):
        """The same fit with its data moved as by `torch.Tensor.to`: `fit.to("cuda", torch.float32)`."""
        x = self.x.to(*args, **kwargs)
        y = self.y.to(x.device) if self.loss_name == "cross_entropy" else self.y.to(*args, **kwargs)
        return Fit(self.model, x, y, self.loss_name, self.dim, self.chunk)

    def _loss_of(self, outputs, part):
        if self.loss_name == "cross_entropy":
            return self.prefactor * functional.cross_entropy(outputs, self.y[part], reduction="sum")
        return self.prefactor * ((outputs - self.y[part]) ** 2).sum()

    def _terms(self, theta):
        return [lambda part=part: self._loss_of(self._outputs(theta, part), part) for part in self._parts()]

    def _parts(self):
        return [slice(i, i + self.chunk) for i in range(0, len(self), self.chunk)]

    def _outputs(self, theta, part=slice(None)):
        outputs, y = self.model(theta, self.x[part]), self.y[part]
        if self.loss_name == "cross_entropy":
            if outputs.ndim != 2 or len(outputs) != len(y):
                raise ValueError(f"model returns shape {tuple(outputs.shape)}, not ({len(y)}, classes)")
            if outputs.shape[1] <= self._classes_end:
                raise ValueError(f"y names class {self._classes_end}, but model has {outputs.shape[1]} outputs")
        elif outputs.shape != y.shape:
            raise ValueError(f"model returns shape {tuple(outputs.shape)}, but y has {tuple(y.shape)}")
        return outputs

    @cached_property
    def _classes_end(self):
        return int(self.y.max())

    def outputs(self, theta):
        """f(θ, x), shape of y; (n, classes) for cross-entropy."""
        theta = self.parameters(theta)
        with torch.no_grad():
            return torch.cat([self._outputs(theta, part) for part in self._parts()])

    def residuals(self, theta):
        """The derivative of the summed loss by the outputs, up to a factor: f - y, or softmax(f) - onehot(y)."""
        outputs = self.outputs(theta)
        if self.loss_name == "cross_entropy":
            return outputs.softmax(1) - functional.one_hot(self.y, outputs.shape[1])
        return outputs - self.y

    def jvp(self, theta, v):
        """J v, the change of the outputs along v, shape of the outputs."""
        theta, v = self.parameters(theta), self.parameters(v)
        parts = [torch.func.jvp(lambda at, i=i: self._outputs(at, i), (theta,), (v,))[1] for i in self._parts()]
        return torch.cat(parts)

    def vjp(self, theta, u):
        """Jᵀu for u of the shape of the outputs, shape (dim,)."""
        theta, u = self.parameters(theta), u.to(self.x)
        return sum(torch.func.vjp(lambda at, i=i: self._outputs(at, i), theta)[1](u[i])[0] for i in self._parts())

    def jacobian(self, theta):
        """J = ∂f(θ, x)/∂θ, one row an output, shape (n·outputs, dim). For small problems."""
        theta = self.parameters(theta)
        return torch.func.jacrev(self._outputs)(theta).reshape(-1, self.dim).detach()


def _classes(y):
    """y as a tensor of class numbers."""
    y = torch.as_tensor(y)
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"y must hold whole class numbers for cross-entropy, not {y.dtype}")
    if y.ndim != 1 or len(y) == 0 or y.min() < 0:
        raise ValueError("y must be a non-empty list of classes 0, 1, … for cross-entropy")
    return y.long()
