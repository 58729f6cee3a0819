"""What spikenb and its peers do, as each peer's own pages say it is called; run by `core.py`, one process each.

A contestant takes a task, makes ready what it needs, and returns its work: a function without arguments that gives
its answer as a dict of arrays. Peers are imported where they are used.
"""

import sys

import cases
import contest
import numpy as np
import torch
from torch import nn
from torch.nn import functional

# ---- the sharpness along 20 steps of descent ----


def _tracking(task):
    """The case, its module (a peer's operand), the module's loss, and a function that puts a θ into the module."""
    case, k = cases.case(task["case"], task["tiny"], task["thetas"]), task["k"]
    fit, module = case.fit, cases.module_of(case.fit)
    dtype = case.thetas[0].dtype
    torch.set_default_dtype(dtype)  # some peers draw their vectors in the default type
    x, y = fit.x.to(dtype), fit.y if fit.loss_name == "cross_entropy" else fit.y.to(dtype)
    module = module.to(dtype)
    parameters = list(module.parameters())

    def put(theta):
        with torch.no_grad():
            for p, part in zip(parameters, theta.split([p.numel() for p in parameters]), strict=True):
                p.copy_(part.view_as(p))
                p.grad = None

    return case.thetas, k, module, (x, y), _Loss(fit.loss_name), put


class _Loss(nn.Module):
    """The case's loss as peers want it: of outputs and targets, a mean over the points."""

    reduction = "mean"

    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, outputs, y):
        if self.name == "cross_entropy":
            return functional.cross_entropy(outputs, y)
        return ((outputs - y) ** 2).sum() / len(y)


def _answer(found):
    """Per step (values, vectors as columns, products) as arrays."""
    values, vectors, products = zip(*found, strict=True)
    return {"values": np.array(values), "vectors": np.stack(vectors), "products": np.array(products)}


def track_spikenb(task):
    from spikenb.curvature import Tracker

    case = cases.case(task["case"], task["tiny"], task["thetas"])

    def work():
        tracker, found = Tracker(task["k"]), []
        for theta in case.thetas:
            tracker(case.fit, theta)
            found.append((tracker.pairs.values, tracker.pairs.vectors.numpy(), tracker.pairs.products))
        return _answer(found)

    return work


def track_pyhessian(task):
    from pyhessian import hessian
    from pyhessian.utils import hessian_vector_product

    thetas, k, module, data, loss, put = _tracking(task)
    counted = [0]

    def product(*arguments):
        counted[0] += 1
        return hessian_vector_product(*arguments)

    sys.modules[hessian.__module__].hessian_vector_product = product

    def work():
        torch.manual_seed(0)
        found = []
        for theta in thetas:
            put(theta)
            before = counted[0]
            values, vectors = hessian(module, loss, data=data, cuda=False).eigenvalues(top_n=k)
            vectors = [torch.cat([part.reshape(-1) for part in v]).detach().numpy() for v in vectors]
            found.append((values, np.stack(vectors, 1), counted[0] - before))
        return _answer(found)

    return work


def track_curvlinops(task):
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import LinearOperator, eigsh

    thetas, k, module, data, loss, put = _tracking(task)

    def work():
        found, rng = [], np.random.default_rng(0)
        for theta in thetas:
            put(theta)
            operator = HessianLinearOperator(
                module, loss, list(module.parameters()), [data], check_deterministic=False, num_data=len(data[1])
            ).to_scipy()
            counted = [0]

            def product(v, operator=operator, counted=counted):
                counted[0] += 1
                return operator @ v

            start = rng.standard_normal(len(theta))
            counting = LinearOperator(operator.shape, matvec=product, dtype=operator.dtype)
            values, vectors = eigsh(counting, k=k, which="LA", v0=start)
            found.append((values[::-1], vectors[:, ::-1], counted[0]))
        return _answer(found)

    return work


def _eigenthings(asked):
    def build(task):
        from hessian_eigenthings import HessianOperator, lanczos
        from hessian_eigenthings.loss_fns import supervised_loss

        thetas, k, module, data, loss, put = _tracking(task)

        def work():
            found = []
            for theta in thetas:
                put(theta)
                pairs = lanczos(HessianOperator(module, [data], supervised_loss(loss)), k=asked or k, seed=0)
                vectors = pairs.eigenvectors[:k].T.numpy()
                found.append((pairs.eigenvalues[:k].numpy(), vectors, pairs.iterations))
            return _answer(found)

        return work

    return build


# ---- all eigenvalues of a small net ----


def spectrum_spikenb(task):
    from spikenb import curvature

    case = cases.case("tanh", task["tiny"], task["thetas"])
    return lambda: {"values": np.stack([curvature.spectrum(case.fit, theta).values for theta in case.thetas])}


def _torch_hessian(solve):
    def build(task):
        case = cases.case("tanh", task["tiny"], task["thetas"])
        fit, y = case.fit, case.fit.y

        def loss(theta):
            return ((fit.model(theta, fit.x) - y) ** 2).mean()

        hessian = torch.func.hessian(loss)
        return lambda: {"values": np.stack([solve(hessian(theta)).flip(0).numpy() for theta in case.thetas])}

    return build


# ---- tangent kernels ----


def kernel_spikenb(task):
    from spikenb import tangent

    fit, theta = cases.kernel(task["net"], task["n"], task["tiny"])
    few = slice(None, cases.CHECKED)
    return lambda: {"kernel": tangent.kernel(fit, theta).numpy()[few, few]}


def _per_sample(net, names, state):
    """x ↦ {name: gradients by the parameters `names`, one a sample}, by torch.func."""
    fixed = {name: part for name, part in state.items() if name not in names}

    def output(own, x):
        return torch.func.functional_call(net.module, fixed | own, (x[None],)).reshape(())

    gradients = torch.func.vmap(torch.func.grad(output), (None, 0))
    return lambda x: gradients({name: state[name] for name in names}, x)


def _gram(gradients, out):
    for rows in gradients.values():
        rows = rows.flatten(1)
        out.addmm_(rows, rows.T)
    return out


def kernel_vmap(task):
    fit, theta = cases.kernel(task["net"], task["n"], task["tiny"])
    state = fit.model.split(theta)
    gradients = _per_sample(fit.model, list(state), state)
    return lambda: {"kernel": _gram(gradients(fit.x), fit.x.new_zeros(len(fit), len(fit))).numpy()}


def kernel_vmap_by_layer(task):
    fit, theta = cases.kernel(task["net"], task["n"], task["tiny"])
    state = fit.model.split(theta)

    def work():
        out = fit.x.new_zeros(len(fit), len(fit))
        for name in state:
            _gram(_per_sample(fit.model, [name], state)(fit.x), out)
        return {"kernel": out.numpy()}

    return work


def kernel_unfold(task):
    """Per-sample weight gradients of a convolution as a batched product with the unfolded inputs."""
    fit, theta = cases.kernel(task["net"], task["n"], task["tiny"])
    layers = list(fit.model.module)
    state = fit.model.split(theta)

    def work():
        h, seen = fit.x, []
        for i, layer in enumerate(layers):
            if not hasattr(layer, "weight"):
                h = layer(h)
                continue
            inputs = h.detach()
            h = torch.func.functional_call(layer, {"weight": state[f"{i}.weight"]}, (inputs if not seen else h,))
            if not seen:
                h = h.detach().requires_grad_()
            seen.append((layer, inputs, h))
        derivatives = torch.autograd.grad(h.sum(), [out for _, _, out in seen])
        kernel = fit.x.new_zeros(len(fit), len(fit))
        for (layer, inputs, _), b in zip(seen, derivatives, strict=True):
            b = b * layer.scale
            if b.ndim == 2:
                kernel.addcmul_(inputs @ inputs.T, b @ b.T)
                continue
            patches = functional.unfold(inputs, layer.kernel_size, padding=layer.padding, stride=layer.stride)
            rows = torch.bmm(b.flatten(2), patches.transpose(1, 2)).flatten(1)
            kernel.addmm_(rows, rows.T)
        return {"kernel": kernel.numpy()}

    return work


# ---- average gradient outer products ----


def agop_spikenb(task):
    from spikenb.agop import agop

    net, theta, x = cases.agop(task["outputs"], task["tiny"])
    return lambda: {"agop": agop(net, theta, x).matrix.numpy()}


def _jacobians(net, theta):
    return torch.func.vmap(torch.func.jacrev(lambda x: net(theta, x[None])[0]))


def agop_vmap(task):
    net, theta, x = cases.agop(task["outputs"], task["tiny"])
    jacobians = _jacobians(net, theta)

    def work():
        rows = jacobians(x).reshape(-1, x.shape[1])
        return {"agop": (rows.T @ rows / len(x)).numpy()}

    return work


def agop_gram(task):
    net, theta, x = cases.agop(task["outputs"], task["tiny"])
    rows = _jacobians(net, theta)(x).reshape(-1, x.shape[1]).clone()
    return lambda: {"agop": (rows.T @ rows / len(x)).numpy()}


# ---- the core's own speed ----


def sgemm(task):
    a = torch.from_numpy(np.random.default_rng(0).standard_normal((task["size"], task["size"]))).float()
    return lambda: {"product": (a @ a)[:1].numpy()}


SECTIONS = {
    "tracking": {
        "spikenb": track_spikenb,
        "PyHessian": track_pyhessian,
        "curvlinops, eigsh": track_curvlinops,
        "hessian-eigenthings, lanczos(k)": _eigenthings(None),
        "hessian-eigenthings, lanczos(k=10)": _eigenthings(10),
    },
    "spectrum": {
        "spikenb": spectrum_spikenb,
        "torch.func.hessian, eigvalsh": _torch_hessian(torch.linalg.eigvalsh),
        "torch.func.hessian, eigh": _torch_hessian(lambda hessian: torch.linalg.eigh(hessian)[0]),
    },
    "kernel": {
        "spikenb": kernel_spikenb,
        "torch.func, vmap(grad)": kernel_vmap,
        "torch.func, layer by layer": kernel_vmap_by_layer,
        "unfold, bmm": kernel_unfold,
    },
    "agop": {
        "spikenb": agop_spikenb,
        "torch.func, vmap(jacrev)": agop_vmap,
        "Gram product of ready gradients": agop_gram,
    },
    "speed": {"sgemm": sgemm},
}


def build(section, name, task):
    return SECTIONS[section][name](task)


if __name__ == "__main__":
    contest.serve(build)
