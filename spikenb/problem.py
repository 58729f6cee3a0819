"""A loss of one flat parameter vector θ, with its gradient and Hessian-vector product.

Everything else in the package works on a `Problem`. The toys of the first chapters are Problems made
from a function of two lines; a network on data is a `Fit`, which also knows outputs and residuals.
"""

import torch

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

    def _scalar(self, theta):
        loss = self._loss(theta)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise ValueError("loss must return a tensor of one element")
        return loss.reshape(())

    def loss(self, theta):
        """L(θ), a tensor of shape ()."""
        with torch.no_grad():
            return self._scalar(self.parameters(theta))

    def grad(self, theta):
        """∇L(θ), shape (dim,)."""
        return self.loss_and_grad(theta)[1]

    def loss_and_grad(self, theta):
        """(L(θ), ∇L(θ)) for the price of the gradient."""
        theta = self.parameters(theta).requires_grad_(True)
        loss = self._scalar(theta)
        return loss.detach(), _derivative(loss, theta)

    def hvp(self, theta, v):
        """The Hessian-vector product ∇²L(θ)v, shape (dim,), by reverse-over-reverse differentiation."""
        return self._second_derivative(theta, self.parameters(v))

    def hessian(self, theta):
        """∇²L(θ), shape (dim, dim), symmetric: every row of the identity sent through one retained graph."""
        theta = self.parameters(theta)
        rows = self._second_derivative(theta, torch.eye(self.dim, dtype=theta.dtype, device=theta.device))
        return (rows + rows.T) / 2

    def _second_derivative(self, theta, v):
        theta = self.parameters(theta).requires_grad_(True)
        gradient = _derivative(self._scalar(theta), theta, create_graph=True)
        if not gradient.requires_grad:  # a loss linear in θ
            return torch.zeros_like(v)
        return _derivative(gradient, theta, v.to(theta), is_grads_batched=v.ndim == 2)


def _derivative(output, theta, v=None, **options):
    """v-weighted derivative of `output` by θ; zeros where it does not depend on θ."""
    (g,) = torch.autograd.grad(output, theta, v, allow_unused=True, **options)
    if g is None:
        return torch.zeros_like(theta if v is None or v.ndim == 1 else v)
    return g


class Fit(Problem):
    """A model fitted to data: L(θ) is a loss of the residuals r = f(θ, x) - y.

    Parameters
    ----------
    model : callable
        f(θ, x), outputs of the shape of y; a network of `networks`, or any function in torch operations.
    x, y : array or tensor
        Inputs of shape (n, …) and targets of shape (n,) or (n, outputs); float64 unless float tensors.
    loss : {"mse", "half_mse", "half_sse"}
        (1/n)Σr², (1/2n)Σr² or ½Σr²: see `LOSSES`.
    dim : int, optional
        The number of parameters; `model.dim` if the model has one.

    Raises ValueError for an empty set, NaN or infinite data, x and y of different length, and, at the
    first use, outputs that do not have y's shape.
    """

    def __init__(self, model, x, y, loss="mse", dim=None):
        if dim is None and not hasattr(model, "dim"):
            raise ValueError("dim must be given for a model without a dim attribute")
        self.x, self.y = _checks.tensor("x", x), _checks.tensor("y", y)
        if self.x.ndim == 0 or self.y.ndim == 0 or self.x.shape[0] != self.y.shape[0]:
            raise ValueError(
                f"x and y must hold as many points, not shapes {tuple(self.x.shape)} and {tuple(self.y.shape)}"
            )
        self.model = model
        self.prefactor = LOSSES[_checks.choice("loss", loss, LOSSES)](len(self.y))
        super().__init__(lambda theta: self.prefactor * ((self._outputs(theta) - self.y) ** 2).sum(), dim or model.dim)

    def _outputs(self, theta):
        outputs = self.model(theta, self.x)
        if outputs.shape != self.y.shape:
            raise ValueError(f"model returns shape {tuple(outputs.shape)}, but y has {tuple(self.y.shape)}")
        return outputs

    def outputs(self, theta):
        """f(θ, x), shape of y."""
        with torch.no_grad():
            return self._outputs(self.parameters(theta))

    def residuals(self, theta):
        """r = f(θ, x) - y, shape of y."""
        return self.outputs(theta) - self.y

    def jvp(self, theta, v):
        """J v, the change of the outputs along v, shape of y."""
        return torch.func.jvp(self._outputs, (self.parameters(theta),), (self.parameters(v),))[1]

    def vjp(self, theta, u):
        """Jᵀu for u of the shape of y, shape (dim,)."""
        return torch.func.vjp(self._outputs, self.parameters(theta))[1](u.to(self.y))[0]

    def jacobian(self, theta):
        """J = ∂f(θ, x)/∂θ, one row an output, shape (n·outputs, dim). For small problems."""
        theta = self.parameters(theta)
        return torch.func.jacrev(self._outputs)(theta).reshape(-1, self.dim).detach()
