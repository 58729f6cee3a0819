"""What a network's layers see of a block of samples: their inputs, and the outputs' derivatives by theirs.

`tangent` and `agop` build on it. One forward pass, one backward pass an output, and no derivative by a parameter.
"""

import torch
from torch import nn

from . import networks

LINEAR, CONV = (nn.Linear, networks.Linear), (nn.Conv2d, networks.Conv2d)


def network_of(model):
    """The model if it is a `networks.Network` whose samples are independent of one another, else None.

    Raises ValueError for a Network that mixes samples or draws at random.
    """
    if not isinstance(model, networks.Network):
        return None
    for name, module in model.module.named_modules():
        batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if batch_norm and (module.training or not module.track_running_stats):
            raise ValueError(
                f"model mixes its samples in {name or 'the module'} ({type(module).__name__} in training mode): call "
                "module.eval() first, or use a norm within each sample"
            )
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise ValueError(f"model is random in {name or 'the module'}: call module.eval() first")
    return model


def layered(network):
    """The modules whose weights can be taken from what they see: {name: module}; each weight used by one alone."""
    owners = {}
    for name, module in network.module.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((name, attribute))
    found = {}
    for name, module in network.module.named_modules():
        plain = type(module) in LINEAR or (type(module) in CONV and module.padding_mode == "zeros")
        if plain and all(len(owners[id(p)]) == 1 for p in module.parameters()):
            found[name] = module
    return found


def see(network, state, x, modules):
    """Run the network on x and catch what `modules`, {name: module}, read and return.

    Returns (outputs, {name: [(input, output), …]}), one pair a call; the outputs are set up so that the network's
    can be differentiated by them.
    """
    calls, handles = {}, []
    in_place = any(getattr(module, "inplace", False) for module in network.module.modules())

    def hook(name):
        def catch(module, inputs, output):
            if not output.requires_grad:
                output.requires_grad_()
            calls.setdefault(name, []).append((inputs[0].detach(), output))
            return output.clone() if in_place else None

        return catch

    try:
        handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
        with torch.enable_grad():
            outputs = network.run(state, x)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, calls


def derivatives(outputs, calls, last):
    """The derivatives of Σ_i outputs[i] (a column of the outputs) by every call's output, in the calls' order.

    `last`: no further column will be asked for.
    """
    tensors = [output for pairs in calls.values() for _, output in pairs]
    if not outputs.requires_grad:
        return [torch.zeros_like(t) for t in tensors]
    found = torch.autograd.grad(outputs.sum(), tensors, retain_graph=not last, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, tensors, strict=True)]


def scale_of(module):
    """What the module multiplies its weights' product by: 1, or 1/√fan_in in the NTK parametrisation."""
    return getattr(module, "scale", 1.0)
