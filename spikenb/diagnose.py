"""Why did my loss spike? The book's tools on an ordinary PyTorch loop::

    watch = diagnose.Watch(model, loss_fn, optimizer)
    for x, y in loader:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        watch.see(x, y, loss)
    print(watch.report())

Every optimizer here takes the step θ ← θ - S²·(momentum of ∇L), S² the learning rate over the preconditioner of each
parameter, and on a quadratic it is stable where λ1(S H S) < c, H the Hessian (`threshold` has the c of each). So one
number is measured, the *ratio* λ1(S H S)/c: above 1 the step is linearly unstable. It is λ1/(2/η) for gradient descent
and λ1/((2 + 2β)/η) for heavy-ball momentum. For Adam it is the sharpness of the preconditioned Hessian P⁻¹H over
(2 + 2β1)/((1 - β1)η), which is 38/η for β1 = 0.9 (Cohen et al. 2022, *Adaptive Gradient Methods at the Edge of
Stability*, arXiv:2207.14484), with P = (1 - β1^t)(√v̂ + ε).
"""

import contextlib
import functools
import math
import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils import _pytree
from tqdm import tqdm

from . import _checks, _stories, curvature
from ._stories import (  # noqa: F401
    BATCH,
    CURVATURE,
    DIVERGENCE,
    FAULT,
    HEALTHY,
    SCHEDULE,
    STORIES,
    UNKNOWN,
    WINDOW,
    Diagnosis,
    Event,
    Step,
    at_rates,
    is_tensor,
    rows,
)
from .problem import Problem


def threshold(optimizer):
    """c, the value of λ1(S H S) above which the optimizer is unstable on a quadratic.

    ===================================  ==========================  ====================
    optimizer                            S²                          c
    ===================================  ==========================  ====================
    SGD                                  η                           2
    SGD, heavy-ball β, dampening d       η(1 - d)                    2 + 2β
    SGD, Nesterov                        η                           (2 + 2β)/(1 + 2β)
    RMSprop, momentum μ                  η/(√v + ε)                  2 + 2μ
    Adagrad                              η/(√Σg² + ε)                2
    Adam, AdamW                          η/((1 - β1^t)(√v̂ + ε))      (2 + 2β1)/(1 - β1)
    ===================================  ==========================  ====================

    Raises TypeError for another optimizer, ValueError for groups of different momentum and for `maximize`.
    """
    found = {_threshold(optimizer, group) for group in optimizer.param_groups}
    if len(found) > 1:
        raise ValueError("optimizer has groups of different momentum: no one threshold holds for them together")
    return found.pop()


def _threshold(optimizer, group):
    if group.get("maximize"):
        raise ValueError("optimizer maximizes; hand over one that minimizes the loss")
    if isinstance(optimizer, torch.optim.SGD):
        beta = group["momentum"]
        return (2 + 2 * beta) / (1 + 2 * beta) if group["nesterov"] else 2 + 2 * beta
    if isinstance(optimizer, torch.optim.RMSprop):
        return 2 + 2 * group["momentum"]
    if isinstance(optimizer, torch.optim.Adagrad):
        return 2.0
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        return (2 + 2 * group["betas"][0]) / (1 - group["betas"][0])
    raise TypeError(
        f"optimizer is {type(optimizer).__name__}, whose threshold is not known here; SGD, RMSprop, Adagrad, Adam "
        "and AdamW are"
    )


def _squares(optimizer, group, p):
    """S² of one parameter, as the last step used it: a float, or a tensor of its shape."""
    lr, state = float(group["lr"]), optimizer.state.get(p, {})
    if isinstance(optimizer, torch.optim.SGD):
        return lr * (1 - group["dampening"]) if group["momentum"] else lr
    if not state:  # this parameter had no gradient so far, and does not move
        return 0.0
    if isinstance(optimizer, torch.optim.RMSprop):
        v = state["square_avg"] - state["grad_avg"] ** 2 if group["centered"] else state["square_avg"]
        return lr / (v.float().clamp_min(0).sqrt() + group["eps"])
    if isinstance(optimizer, torch.optim.Adagrad):
        lr = lr / (1 + (float(state["step"]) - 1) * group["lr_decay"])
        return lr / (state["sum"].float().sqrt() + group["eps"])
    t, (beta1, beta2) = float(state["step"]), group["betas"]
    v = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"].float() / (1 - beta2**t)
    return lr / ((1 - beta1**t) * (v.sqrt() + group["eps"]))


@dataclass
class Report:
    """`diagnoses`, one a spike in order; `story`, that of `main`, or "no spike"; `notes` on what was done and not.

    `main` is the first spike that is not small beside the largest: whose rise is at least the square root of its.

    `overhead`: the seconds spent on inspection within the loop over those of the training; `seconds`: what the report
    itself took after it; `bytes`: the most that the watch held at once.
    """

    diagnoses: list
    notes: list
    overhead: float
    seconds: float
    bytes: int

    @property
    def main(self):
        rises = [d.numbers["peak"] / max(d.numbers["before"], 1e-300) for d in self.diagnoses]
        return next((d for d, rise in zip(self.diagnoses, rises, strict=True) if rise**2 >= max(rises)), None)

    @property
    def story(self):
        return self.main.story if self.diagnoses else HEALTHY

    def __str__(self):
        return "\n".join([*(map(str, self.diagnoses or [HEALTHY])), *self.notes])


class Watch:
    """A recorder for a training loop: it keeps the last steps, notices jumps of the loss, and says why.

    Parameters
    ----------
    model : torch.nn.Module
    loss_fn : callable
        loss_fn(model(x), y), a tensor of one element.
    optimizer : torch.optim.Optimizer
        SGD, RMSprop, Adagrad, Adam or AdamW, of parameters of the model; see `threshold`.
    every : int
        A checkpoint, and where `budget` allows an inspection, each so many steps.
    keep : int
        The steps whose θ and batch are kept; the cause must lie within them when the loss jumps.
    ratio : float
        The rise of the loss of the reference batch that makes a jump a spike, above 1. A step is looked at whose own
        loss is half-way there over the median of the steps before, or 1.5 times it, and out of their noise. Where a
        loss falls slowly and spikes are low, as in language models, 2 is too much: try 1.2.
    budget : float
        The share of the training time that may go into inspection within the loop. Over it nothing is inspected, and
        parameters are kept every tenth step only. What each step costs anyway, the loss and the gradient's norm, some
        0.05 ms, is counted but not bounded: a loop of tiny steps can go over.
    reference : int
        The rows of the reference batch: the first that are seen.
    events : int
        The most spikes that are frozen for the report.
    chunk : int, optional
        Rows of a batch in one graph while curvature is measured: less memory, more time. A quarter of the first
        batch unless given. It has no effect where the loss is not the mean over the rows (batch norm, dropout).

    All curvature is in float32 outside autocast. Dropout and other noise is frozen: one mask, the same in every
    evaluation. Batch normalisation is as in training (the batch's statistics), on copies of its buffers.
    Frozen parameters and those that the optimizer does not hold are constants; a tied weight counts once.

    Raises TypeError or ValueError for an optimizer without a known threshold, one that holds a parameter that is not
    the model's, and a model without a parameter to train.
    """

    def __init__(
        self, model, loss_fn, optimizer, every=50, keep=5, ratio=2.0, budget=0.15, reference=256, events=3, chunk=None
    ):
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
        if not callable(loss_fn):
            raise TypeError(f"loss_fn must be a function of (model(x), y), not {type(loss_fn).__name__}")
        self.model = getattr(model, "_orig_mod", model)  # a compiled module cannot be differentiated twice
        self.loss_fn, self.optimizer, self.c = loss_fn, optimizer, threshold(optimizer)
        names = {id(p): name for name, p in self.model.named_parameters()}
        held = [(p, group) for group in optimizer.param_groups for p in group["params"]]
        if any(id(p) not in names for p, _ in held):
            raise ValueError("optimizer holds a parameter that is not the model's; make it part of model")
        self.moving = [(names[id(p)], p) for p, _ in held if p.requires_grad]
        if not self.moving:
            raise ValueError("model has no parameter that optimizer moves: all are frozen")
        self.groups = [g for g, one in enumerate(optimizer.param_groups) for p in one["params"] if p.requires_grad]
        self.adaptive = not isinstance(optimizer, torch.optim.SGD)
        self.dim = sum(p.numel() for _, p in self.moving)
        self.every, self.keep = _checks.count("every", every), _checks.count("keep", keep, 2)
        self.ratio, self.budget = _checks.positive("ratio", ratio), _checks.positive("budget", budget)
        if ratio <= 1:
            raise ValueError(f"ratio must be above 1, not {ratio}")
        self.jump = min(1.5, (1 + ratio) / 2)  # the rise of a step's own loss at which it is looked at
        self.chunk = None if chunk is None else _checks.count("chunk", chunk)
        self.rows, self.most = _checks.count("reference", reference), _checks.count("events", events)
        self.losses, self.gradients, self.history = [], [], []
        self.ring, self.checkpoints, self.frozen, self.first, self.seen = [], [], [], [], 0
        self.hard, self.highest = [], (0.0, 0)
        self.unseen = self.skipped = self.missed = self.more = self.bytes = 0
        self.open, self.pending, self.failed, self.top = None, None, None, None
        self.modes, self.cost, self.checking, self.start, self.spent, self.last = None, None, 0.0, None, 0.0, None
        self.hooks = [optimizer.register_step_pre_hook(self._before), optimizer.register_step_post_hook(self._stepped)]

    def close(self):
        """Take the hooks off the optimizer."""
        for hook in self.hooks:
            hook.remove()

    # within the loop

    @contextlib.contextmanager
    def _clock(self):
        begin = time.perf_counter()
        self.start = self.start or begin
        yield
        self.last = time.perf_counter()
        self.spent += self.last - begin

    @property
    def overhead(self):
        """The seconds of inspection within the loop over those of the training itself."""
        trained = (self.last or 0) - (self.start or 0) - self.spent
        return self.spent / trained if trained > 0 else 0.0

    def _before(self, optimizer, args, kwargs):
        with self._clock():
            if self.modes is None:
                self.modes = {name: module.training for name, module in self.model.named_modules()}
            kept = len(self.losses) < WINDOW or len(self.losses) % 10 == 0
            kept = kept or self._has_room(0.0, 2 / 3)
            self.pending = {"theta": self._flat() if kept else None}

    def _stepped(self, optimizer, args, kwargs):
        if self.pending is None:
            return
        with self._clock(), torch.no_grad():
            gradients = [p.grad for _, p in self.moving if p.grad is not None]
            norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(1)
            self.pending["gradient"] = norms.norm().item()
            self.pending["rates"] = rates = tuple(float(group["lr"]) for group in optimizer.param_groups)
            if self.pending["theta"] is not None:
                last = self.ring[-1] if self.ring else None
                same = last and not self.adaptive and last.rates == rates  # S as before: nothing new to keep
                self.pending["scale"] = last.scale if same else self._scale(optimizer)

    def _scale(self, optimizer):
        parts = []
        for (_, p), g in zip(self.moving, self.groups, strict=True):
            square = _squares(optimizer, optimizer.param_groups[g], p)
            parts.append(square.reshape(-1) if is_tensor(square) else p.new_full((p.numel(),), square).float())
        return torch.cat(parts).sqrt_()

    def see(self, x, y, loss, index=None):
        """Call once after each `optimizer.step()`, with the batch of that step.

        x : a tensor, a tuple of the model's arguments, or a dict of them by name. Batches are kept, not copied: where
        your loader fills the same buffers again, give copies. Where several batches are accumulated for one step,
        give them as one.
        y : what loss_fn takes. loss : the step's loss, a tensor or a float. index : the rows' names in your data.
        """
        with self._clock():
            if self.modes is None and not self.losses:
                said = "see() came before an optimizer.step(); call it after each (or did a scaler leave the step out?)"
                warnings.warn(said, stacklevel=2)
            value, pending = float(loss.detach() if is_tensor(loss) else loss), self.pending
            self.pending, t, last = None, len(self.losses), self.ring[-1] if self.ring else None
            self.losses.append(value)
            self.chunk = self.chunk or max(1, rows(x) // 4)
            if pending is None:  # a gradient scaler left the step out
                self.skipped += 1
                pending = {"theta": None, "gradient": math.nan, "rates": last.rates if last else None}
            self.gradients.append(pending["gradient"])
            if pending["theta"] is None and last is not None:  # over the budget: the last θ kept stands for this one
                self.missed += 1
                at = at_rates(last, pending["rates"])
                pending |= {"theta": at.theta, "scale": at.scale, "exact": False}
            if pending["theta"] is not None:
                kept = (t, pending["theta"], pending["scale"], pending["rates"], x, y, index, value)
                self.ring = [*self.ring, Step(*kept, pending["gradient"], pending.get("exact", True))][-self.keep :]
                if self.seen < self.rows and math.isfinite(value):
                    self.first.append((x, y))
                    self.seen += rows(x)
                self._look(t, value, self.pending is None and math.isnan(pending["gradient"]))

    def _look(self, t, value, skipped):
        finite = math.isfinite(value) and (skipped or self.open is not None or math.isfinite(self.gradients[t]))
        recent = sorted(v for v in self.losses[max(0, t - WINDOW) : t] if math.isfinite(v))
        base = recent[len(recent) // 2] if recent else value
        spread = np.median([abs(v - base) for v in recent]) if recent else 0.0
        jumps = len(recent) >= 3 and value > self.jump * base and value > base + 7 * spread
        if finite and len(recent) >= 3 and base > 0:
            self.highest = max(self.highest, (value / base, t))
        if self.open is not None and (jumps or not finite) and self._is_back(t - 1):
            self._close(t - 1)  # and the next one begins at once
        elif self.open is not None and jumps and self._gives_way(t, value):
            self.frozen = [e for e in self.frozen if e is not self.open]
            self.open, self.unseen = None, self.unseen + 1
        if self.open is not None:
            self._follow(t, value, finite)
        elif not finite:
            self._freeze(t, base, False)
        elif jumps:
            self._freeze(t, base, True)
        elif t % self.every == 0 or not self.checkpoints:
            self.checkpoints = [*self.checkpoints[:1], *self.checkpoints[1:][-1:], self.ring[-1]]
            self._inspect(self.ring[-1])
            self.bytes = max(self.bytes, self._held())

    def _freeze(self, t, base, finite):
        if finite and sum(event.shared or False for event in self.frozen) >= self.most:
            self.more += 1
            return
        after, peak = self._flat(), self.losses[t] if finite else math.inf
        self.open = Event(t, base, self.ring, after, after, list(self.checkpoints), finite, peak, not finite)
        self.frozen.append(self.open)
        self.bytes = max(self.bytes, self._held())

    def _follow(self, t, value, finite):
        """Note the peak of the jump that is open; close it when the loss is back."""
        event = self.open
        if not finite:
            event.finite, event.peak = False, math.inf
        elif value > event.later:  # what the steps of the jump did, not the loss of the batch that began it
            event.peak, event.later, event.worst = max(event.peak, value), value, self.ring[-1].theta
        if self._is_back(t):
            self._close(t)

    def _gives_way(self, t, value):
        """Whether the jump that is open had nearly ended, and is small beside what comes now."""
        event = self.open
        return self.losses[t - 1] <= 20 * event.before and value * event.before > event.peak**2

    def _is_back(self, t):
        event = self.open
        return t >= event.step + 2 and max(self.losses[t - 1 : t + 1]) <= self.jump * event.before

    def _close(self, t):
        event, self.open = self.open, None
        event.end = t
        if self._has_room(self.checking, 0.9):
            begin = time.perf_counter()
            self._check(event)
            self.checking = time.perf_counter() - begin
        doubtful = [e for e in self.frozen if not e.shared]
        if len(self.frozen) > self.most and doubtful:  # the smallest of those that there was no time to check
            self.frozen.remove(min(doubtful, key=_rise))
            self.unseen += 1

    def _check(self, event):
        """Drop a jump that the reference batch did not share, against the last checkpoint and the first kept step."""
        if event.shared is None:
            known = [self.reference_loss(kept.theta) for kept in (*event.stable[-1:], event.kept[0])]
            now = [self.reference_loss(theta) for theta in (event.kept[-1].theta, event.after, event.worst)]
            event.shared = not event.finite or not max(now) < self.ratio * min(known)
            if not event.shared:
                self.frozen = [e for e in self.frozen if e is not event]
                self.hard.append((_rise(event), event.step, event.before, event.peak))

    def _has_room(self, cost, share):
        """Whether what costs so many seconds keeps the inspection within a share of the budget."""
        trained = self.last - self.start - self.spent if self.last else 0.0
        return self.spent + cost <= share * self.budget * trained

    def _inspect(self, kept):
        """The ratio of the reference batch, if the budget has room for what it cost the last time."""
        if self.cost is None:  # a guess to begin with
            begin = time.perf_counter()
            self.reference_loss(kept.theta)
            self.checking = 5 * (time.perf_counter() - begin)
            self.cost = 20 * self.checking
        if not self._has_room(self.cost, 0.5):  # the other half is for what is kept
            return
        begin = time.perf_counter()
        try:
            x, y = self.reference_batch()
            with torch.autocast(kept.theta.device.type, enabled=False):
                value, self.top = _top(self._problem(kept, x, y), kept.theta, self.top)
            self.history.append((kept.step, value / self.c))
        except (FloatingPointError, RuntimeError) as error:
            self.failed = error
        self.cost = time.perf_counter() - begin

    # the loss as a function of a flat θ

    def _flat(self):
        return torch.cat([p.detach().reshape(-1).float() for _, p in self.moving])

    def _held(self):
        """The bytes of all that is kept: each tensor once."""
        steps = [*self.ring, *self.checkpoints]
        steps += [k for event in self.frozen for k in (*event.kept, *event.stable)]
        tensors = [t for k in steps for t in (k.theta, k.scale, *_pytree.tree_leaves((k.x, k.y)))]
        tensors += [theta for event in self.frozen for theta in (event.after, event.worst)] + _pytree.tree_leaves(
            self.first
        )
        each = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if is_tensor(t)}
        return sum(each.values())

    def reference_batch(self):
        """The first rows seen, as one batch; the first batch alone where they cannot be joined."""
        if len(self.first) > 1 and sum(rows(a) for a, _ in self.first) >= self.rows:
            with contextlib.suppress(RuntimeError, ValueError, TypeError):
                self.first = [_pytree.tree_map(lambda *parts: torch.cat(parts)[: self.rows], *self.first)]
        return self.first[0] if self.first else (self.ring[0].x, self.ring[0].y)

    def reference_loss(self, theta):
        with torch.no_grad():
            return sum(w * self._loss(theta, x, y).item() for x, y, w in self._parts(*self.reference_batch()))

    def outputs(self, theta, x):
        """The module's outputs with θ in place of its parameters: float32, noise frozen, buffers copied, modes as in
        the training."""
        parts = theta.split([p.numel() for _, p in self.moving])
        state = {name: buffer.detach().clone() for name, buffer in self.model.named_buffers()}
        state |= {name: p.detach() for name, p in self.model.named_parameters()}
        state = {name: v.float() if v.is_floating_point() else v for name, v in state.items()}
        state |= {name: part.view(p.shape) for (name, p), part in zip(self.moving, parts, strict=True)}
        x = _pytree.tree_map(lambda v: v.float() if is_tensor(v) and v.is_floating_point() else v, x)
        args, kwargs = (x, {}) if isinstance(x, tuple) else ((), x) if isinstance(x, dict) else ((x,), {})
        now = {name: module.training for name, module in self.model.named_modules()}
        self._set_modes(self.modes)
        cuda = [theta.device] if theta.is_cuda else []
        maths = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)  # can be differentiated twice
        try:
            with torch.random.fork_rng(cuda), torch.autocast(theta.device.type, enabled=False), maths:
                torch.manual_seed(0)
                with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled and not self._recurrent()):
                    return torch.func.functional_call(self.model, state, args, kwargs)
        finally:
            self._set_modes(now)

    def _recurrent(self):
        return any(isinstance(module, torch.nn.RNNBase) for module in self.model.modules())

    def _set_modes(self, modes):
        for name, module in self.model.named_modules():
            module.training = modes.get(name, module.training) if modes else module.training

    def _loss(self, theta, x, y):
        y = _pytree.tree_map(lambda v: v.float() if is_tensor(v) and v.is_floating_point() else v, y)
        return self.loss_fn(self.outputs(theta, x), y)

    def loss_at(self, kept, gradient=False):
        """The loss of a kept step's own batch in float32; with `gradient` also the norm of its gradient."""
        theta = kept.theta.clone().requires_grad_(True)
        loss = self._loss(theta, kept.x, kept.y)
        return (loss.item(), torch.autograd.grad(loss, theta)[0].norm().item()) if gradient else loss.item()

    def _problem(self, kept, x, y):
        """φ ↦ L(θ + Sφ), whose Hessian at φ = 0 is S H S; with the optimizer's own L2 term in L."""
        decay = [(group.get("weight_decay", 0), group["params"]) for group in self.optimizer.param_groups]
        adamw = isinstance(self.optimizer, torch.optim.AdamW)
        decoupled = adamw or self.optimizer.param_groups[0].get("decoupled_weight_decay", False)
        by_id = {} if decoupled else {id(p): d for d, params in decay for p in params}
        weights = torch.cat([torch.full((p.numel(),), float(by_id.get(id(p), 0))) for _, p in self.moving])
        weights = weights.to(kept.theta) if weights.any() else None

        def term(part):
            return lambda phi: part[2] * self._loss(kept.theta + kept.scale * phi, *part[:2])

        terms = [term(part) for part in self._parts(x, y)]
        if weights is not None:
            terms.append(lambda phi: (weights * (kept.theta + kept.scale * phi) ** 2).sum() / 2)
        return _Terms(terms, self.dim)

    def _parts(self, x, y):
        """(x, y, weight) of at most `chunk` rows each; the whole where the loss is not the mean over its rows."""
        n, chunk = rows(x), self.chunk
        if n <= chunk or not self._is_mean:
            return [(x, y, 1.0)]
        cuts = [slice(i, i + chunk) for i in range(0, n, chunk)]
        pick = lambda data, cut: _pytree.tree_map(lambda v: v[cut], data)  # noqa: E731
        return [(pick(x, cut), pick(y, cut), len(range(n)[cut]) / n) for cut in cuts]

    @functools.cached_property
    def _is_mean(self):
        """Whether the loss of a batch is the mean over its rows, of which `_parts` are made; tried on one batch."""
        kept = self.ring[-1]
        n = rows(kept.x)
        leaves = _pytree.tree_leaves((kept.x, kept.y))
        if n < 2 or not all(is_tensor(v) and v.ndim and len(v) == n for v in leaves):
            return False
        cuts = slice(n // 2), slice(n // 2, n)
        halves = [_pytree.tree_map(lambda v, cut=cut: v[cut], (kept.x, kept.y)) for cut in cuts]
        with torch.no_grad():
            whole = self._loss(kept.theta, kept.x, kept.y)
            joined = sum(rows(x) / n * self._loss(kept.theta, x, y) for x, y in halves)
        return torch.isclose(whole, joined, rtol=1e-4).item()

    def ratio_of(self, kept, x, y):
        """λ1(S H S)/c of a batch at a kept step, and its vector."""
        value, vector = _top(self._problem(kept, x, y), kept.theta)
        return value / self.c, vector

    def kernel_of(self, kept, x):
        """As `ratio_of`, with the tangent kernel's part of the Hessian, S JᵀJ S·h/n, and h from `output_curvature`.

        It is the Hessian of (h/2n)Σ(f(θ + Sφ) - f(θ))² at φ = 0. The kernel does not vanish where a sample's softmax is
        saturated, as the Hessian does. Returns the value, the vector, and each sample's share of it.
        """
        parts, factor = [part for part, *_ in self._parts(x, x)], self.output_curvature / (2 * rows(x))
        with torch.no_grad():
            fixed = [self.outputs(kept.theta, part) for part in parts]

        def term(part, at):
            return lambda phi: factor * (self.outputs(kept.theta + kept.scale * phi, part) - at).square().sum()

        terms = [term(part, at) for part, at in zip(parts, fixed, strict=True)]
        value, vector = _top(_Terms(terms, self.dim), kept.theta)
        direction = kept.scale * vector
        along = [self._along(kept.theta, direction, part, at) for part, at in zip(parts, fixed, strict=True)]
        each = torch.cat([a.square().reshape(len(a), -1).sum(1) for a in along])
        return value / self.c, vector, (each / each.sum()).cpu()

    def _along(self, theta, direction, x, like):
        """J·direction at the rows of x, by two backward passes."""
        s = torch.zeros((), device=like.device, requires_grad=True)
        w = torch.zeros_like(like, requires_grad=True)
        moved = self.outputs(theta + s * direction, x)
        (slope,) = torch.autograd.grad((moved * w).sum(), s, create_graph=True)
        return torch.autograd.grad(slope, w)[0]

    @functools.cached_property
    def output_curvature(self):
        """h: the largest curvature of one row's loss by its outputs, n·λ1(∂²L/∂f²) on the reference batch.

        2 for a squared error summed over outputs, at most 1/2 for cross-entropy; measured before the first spike.
        """
        theta = (self.frozen[0].kept[0] if self.frozen else self.ring[-1]).theta
        return max(self._output_curvature(theta, x, y) for x, y, _ in self._parts(*self.reference_batch()))

    def _output_curvature(self, theta, x, y):
        with torch.no_grad():
            outputs = self.outputs(theta, x)
        if not is_tensor(outputs) or len(outputs) != rows(x):
            raise ValueError("the model's outputs are not one tensor with a row a sample")
        problem = Problem(lambda f: self.loss_fn(f.view(outputs.shape), y), outputs.numel())
        return len(outputs) * curvature.top_eigenpairs(problem, outputs.reshape(-1), tol=0.05).values[0].item()

    # after the loop

    def report(self):
        """Inspect what was frozen, and say what each spike was. Returns a `Report`.

        Each event takes many Hessian-vector products on batches of your loop, together perhaps longer than a short
        training; fewer `events` and a smaller `reference` make it shorter.
        """
        begin = time.perf_counter()
        for event in list(self.frozen):
            self._check(event)
        events = tqdm(self.frozen, desc="inspecting", unit="spike", delay=3, leave=False)
        diagnoses = [_stories.diagnose(self, event) for event in events]
        notes = [
            f"{len(self.losses)} steps; threshold on λ1(SHS): c = {self.c:.4g} ({type(self.optimizer).__name__}); "
            f"curvature in float32"
        ]
        if self.history:
            steps, ratios = zip(*self.history, strict=True)
            notes.append(
                f"λ1/threshold on {len(steps)} inspections: {ratios[0]:.3g} at step {steps[0]}, at most "
                f"{max(ratios):.3g}, {ratios[-1]:.3g} at step {steps[-1]}"
            )
        modules = list(self.model.modules())
        if any(isinstance(m, torch.nn.modules.dropout._DropoutNd) and m.p for m in modules):
            notes.append("dropout: inspected with one frozen mask")
        if any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in modules):
            notes.append("batch norm: inspected as in training; its samples depend on each other, so none are named")
        hardest = "the highest: " + ", ".join(
            f"step {t} ({low:.3g} to {high:.3g})" for _, t, low, high in sorted(self.hard)[:-4:-1]
        )
        for count, what in (
            (len(self.hard), f"jumps of one batch's loss that the reference batch did not share, no spikes; {hardest}"),
            (self.more, f"further spikes beyond the first {self.most}, not inspected"),
            (self.unseen, "small jumps of the loss that were let go unseen, for the budget"),
            (self.skipped, "batches without an optimizer step"),
            (
                self.missed,
                "steps whose parameters were not kept, for the budget: the last ones kept stand for them",
            ),
        ):
            if count > 0:
                notes.append(f"{count} {what}")
        rise, t = self.highest
        if not diagnoses and not self.hard and rise > 1:
            notes.append(
                f"the loss of step {t} was {rise:.3g} times the median before; a step is looked at from "
                f"{self.jump:.3g} times on, where it is out of the noise (see `ratio`)"
            )
        seconds = time.perf_counter() - begin
        notes.append(
            f"inspection within the loop: {100 * self.overhead:.1f}% of the training time (bound "
            f"{100 * self.budget:.0f}%); this report: {seconds:.1f} s; kept: at most {self.bytes / 1e6:.1f} MB"
        )
        return Report(diagnoses, notes, self.overhead, seconds, self.bytes)


def _rise(event):
    """How many times the loss before it the jump's peak is: a huge number where that loss was zero."""
    return event.peak / max(event.before, 1e-300)


class _Terms(Problem):
    """A sum of functions of θ, of which one graph lives at a time."""

    def __init__(self, terms, dim):
        super().__init__(lambda theta: sum(term(theta) for term in terms), dim)
        self.terms = terms

    def _terms(self, theta):
        return [lambda term=term: term(theta) for term in self.terms]


def _top(problem, like, start=None, tol=2e-3, most=60):
    """(λ1, v1) of the Hessian at φ = 0, by steps that are optimal in the span of v, its residual and the last step (the
    locally optimal conjugate gradient of Knyazev 2001): six vectors in all, where a Krylov space keeps two a product.
    """
    with torch.autocast(like.device.type, enabled=False):
        product = problem.hessian_operator(torch.zeros_like(like))
        if start is None:
            start = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like)
        basis = (start / start.norm())[None]
        images = product(basis[0])[None]
        values = []
        for _ in range(most):
            values.append((basis[0] @ images[0]).item())
            residual = images[0] - values[-1] * basis[0]
            small = residual.norm().item() <= 0.1 * abs(values[-1])
            if not math.isfinite(values[-1]):
                raise FloatingPointError("a Hessian-vector product is not finite")
            if small and len(values) > 3 and abs(values[-1] - values[-4]) <= tol * abs(values[-1]):
                break
            if not residual.norm() > 1e-7 * images[0].norm():
                break
            residual /= residual.norm()
            basis, images = torch.cat([basis, residual[None]]), torch.cat([images, product(residual)[None]])
            gram, inner = (basis @ basis.T).double().cpu(), (basis @ images.T).double().cpu()
            mix = _largest(inner, gram).to(basis)
            step = mix.clone()
            step[0] = 0  # what is added to v: the direction of the next step
            both = torch.stack([mix, step])
            basis, images = both @ basis, both @ images
            lengths = basis.norm(dim=1, keepdim=True)
            basis, images = basis / lengths, images / lengths
    return values[-1], basis[0]


def _largest(inner, gram):
    """The mix of a basis with the largest Rayleigh quotient."""
    scale, turn = torch.linalg.eigh(gram)
    keep = scale > 1e-10 * scale.max()
    white = turn[:, keep] / scale[keep].sqrt()
    return white @ torch.linalg.eigh(white.T @ ((inner + inner.T) / 2) @ white).eigenvectors[:, -1]


def __getattr__(name):
    if name == "LightningCallback":
        return _lightning_callback()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _lightning_callback():
    import lightning

    class LightningCallback(lightning.Callback):
        """A `Watch` in a Lightning training: `Trainer(callbacks=[LightningCallback(loss_fn)])`.

        For automatic optimization with one optimizer, batches (x, y) and a module whose forward gives what `loss_fn`
        takes. Keywords are `Watch`'s. `watch` is the recorder, and `report` the `Report` after the training.
        """

        def __init__(self, loss_fn, **options):
            self.loss_fn, self.options, self.watch, self.report = loss_fn, options, None, None

        def on_train_start(self, trainer, pl_module):
            if len(trainer.optimizers) != 1 or trainer.accumulate_grad_batches != 1:
                raise ValueError("LightningCallback takes one optimizer and no accumulated gradients")
            self.watch = Watch(pl_module, self.loss_fn, trainer.optimizers[0], **self.options)

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            x, y = batch
            self.watch.see(x, y, outputs["loss"])

        def on_train_end(self, trainer, pl_module):
            self.watch.close()
            self.report = self.watch.report()

    return LightningCallback
