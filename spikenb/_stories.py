"""What a spike was: the stories of `diagnose`, told from what its `Watch` has kept."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch.utils import _pytree

from .measure import directions, spikes

CURVATURE, BATCH = "curvature crossed the threshold", "a batch's critical rate fell below η"
SCHEDULE, DIVERGENCE = "learning-rate schedule", "divergence"
FAULT, UNKNOWN, HEALTHY = "numerical fault", "not explained", "no spike"
STORIES = CURVATURE, BATCH, SCHEDULE, DIVERGENCE, FAULT, UNKNOWN
OUTLIER = {"batches": 2.0, "kernels": 8.0}  # a batch is to blame where it is so many times the median of its neighbours
EDGE = 0.85  # at the edge λ1/threshold hovers about 1, and it falls as the oscillation that it drives grows
EVERYWHERE = 1.5  # times the threshold: what hovers about 1 at the edge is below
WINDOW = 20  # steps that a jump of the loss is held against


class Step(NamedTuple):
    """One step kept: θ_t before it, S, the batch, and what the loop said. θ and S flat, float32."""

    step: int
    theta: torch.Tensor
    scale: torch.Tensor
    rates: tuple
    x: object
    y: object
    index: object
    loss: float
    gradient: float
    exact: bool  # False: θ and S are the last ones kept, for the budget


@dataclass
class Event:
    """A jump of the loss: what was frozen of it until the report."""

    step: int
    before: float
    kept: list  # the last steps, oldest first
    after: torch.Tensor  # θ after the last of them
    worst: torch.Tensor  # θ where the loss was largest since `step`
    stable: list  # the checkpoints
    finite: bool
    peak: float
    sudden: bool  # not finite at once, without a jump before
    later: float = -math.inf  # the largest loss since `step`
    end: int | None = None
    shared: bool | None = None  # by the reference batch; None: not looked at yet
    reference: list | None = None  # the reference loss at each kept θ and at `after`


@dataclass
class Diagnosis:
    """One spike: `story` is the first answer, `others` what fits beside it, `lines` the numbers it rests on.

    `step` and `end`: where the loss jumped, and where it was back (None where it never was). `batch`: the step whose
    batch is to blame, and `samples` its heaviest as (name, share of the kernel's top direction); None and empty where a
    batch is neither the story nor among the others. `numbers`: every number of the lines.
    """

    step: int
    end: int | None
    story: str
    others: list = field(default_factory=list)
    lines: list = field(default_factory=list)
    batch: int | None = None
    samples: list = field(default_factory=list)
    numbers: dict = field(default_factory=dict)

    def __str__(self):
        also = f" (also: {', '.join(self.others)})" if self.others else ""
        return "\n".join([f"step {self.step}: {self.story}{also}", *(f"  {line}" for line in self.lines)])


def diagnose(watch, event):
    """The `Diagnosis` of one frozen event."""
    d = Diagnosis(event.step, event.end, UNKNOWN)
    event.reference = [watch.reference_loss(theta) for theta in [*(k.theta for k in event.kept), event.after]]
    _tell_the_rise(watch, event, d)
    if _is_fault(watch, event, d):
        return d
    try:
        _tell_the_curvature(watch, event, d)
    except (FloatingPointError, RuntimeError) as error:
        d.lines.append(f"curvature could not be measured: {error}")
    return d


def _tell_the_rise(watch, event, d):
    losses, n = watch.losses, d.numbers
    finite = [v if v > 0 and math.isfinite(v) else math.nan for v in losses]
    cut = next((i for i, v in enumerate(finite) if math.isnan(v)), len(finite))
    found = spikes.find_spikes(losses[:cut], 2 * WINDOW, max(watch.ratio, 2.0)) if cut > 2 else []
    stop = event.end if event.end is not None else len(losses)
    spike = next((s for s in found if event.kept[0].step <= s.step <= stop), None)
    n["before"], n["peak"] = event.before, event.peak
    tail = np.array(losses[-5:])
    n["returned"] = event.end is not None or bool(
        event.finite and len(losses) > event.step + 5 and np.median(tail) <= watch.ratio * event.before
    )
    if spike is not None and (event.end is None or spike.end <= event.end):
        event.peak = n["peak"] = max(event.peak, spike.peak)
    peak = f"{event.peak:.4g}" if event.finite else "not finite"
    back = f"back at step {event.end}" if event.end is not None else f"not back by step {len(losses) - 1}"
    d.lines.append(f"loss: {event.before:.4g} before (median of {min(WINDOW, event.step)} steps), peak {peak}, {back}")
    last, usual = event.kept[-1], [g for g in watch.gradients[max(0, event.step - WINDOW) : event.step]]
    usual = float(np.nanmedian(usual)) if usual and np.isfinite(usual).any() else math.nan
    n["gradient"], n["gradient before"] = last.gradient, usual
    d.lines.append(f"gradient norm: {last.gradient:.4g} at step {last.step}, {usual:.4g} before (median)")


def _is_fault(watch, event, d):
    """Whether the event is a numerical fault; says what was found of it."""
    last = event.kept[-1]
    moved = not event.reference[-2] < watch.ratio * event.reference[0]
    here = torch.isfinite(last.theta).all()
    if not event.sudden or not math.isfinite(event.reference[0]):
        known = [k for k in event.kept if k.exact]
        if known[-1:] != event.kept[-1:] or len(known) < 3:
            return False
        exact = [watch.loss_at(k) for k in known]
        off = [abs(v - k.loss) / max(abs(v), 1e-12) for k, v in zip(known, exact, strict=True)]
        if not (math.isfinite(off[-1]) and off[-1] > 0.2 and np.median(off[:-1]) < 0.02):
            return False
        d.story, d.numbers["float32"] = FAULT, exact[-1]
        d.lines.append(
            f"the loop's loss of step {last.step} is {last.loss:.4g}; in float32 the same batch has {exact[-1]:.4g}"
        )
        return True
    if here and moved and math.isfinite(watch.gradients[max(event.step - 1, 0)]):
        return False  # the parameters had left before: an instability, that ends in infinity
    d.story = FAULT
    for name, data in (("x", last.x), ("y", last.y)):
        for v in _pytree.tree_leaves(data):
            if is_tensor(v) and v.is_floating_point() and v.ndim and not torch.isfinite(v).all():
                rows = (~torch.isfinite(v).reshape(len(v), -1).all(1)).nonzero().flatten().tolist()
                d.batch, d.samples = last.step, [(_name(last, i), math.nan) for i in rows]
                d.lines.append(
                    f"{name} of step {last.step} has NaN or infinite entries, in samples {_names(d.samples)}"
                )
    exact, gradient = watch.loss_at(last, gradient=True)
    d.numbers |= {"float32": exact, "float32 gradient": gradient}
    d.lines.append(
        f"at step {last.step} the loop's loss is {last.loss:.4g} and its gradient norm {last.gradient:.4g}; in float32 "
        f"they are {exact:.4g} and {gradient:.4g}"
    )
    if math.isfinite(exact) and math.isfinite(gradient):
        d.lines.append("finite in float32: the fault is in the loop's own precision or what it does to the gradient")
    elif not d.samples:
        d.lines.append("not finite in float32 either, with finite data: an operation of the model or of the loss")
    return True


def _tell_the_curvature(watch, event, d):
    n, kept = d.numbers, event.kept
    x, y = watch.reference_batch()
    quiet = [i for i in range(len(kept)) if i == 0 or event.reference[i] <= watch.ratio * event.reference[0]]
    quiet = sorted({quiet[0], quiet[-1]})
    ratios, vectors = zip(*(watch.ratio_of(kept[i], x, y) for i in quiet), strict=True)
    best = int(np.argmax(ratios))
    at, ratio, vector = kept[quiet[best]], ratios[best], vectors[best]
    n["ratio"], n["rate"] = ratio, at.rates
    d.lines.append(f"reference batch: λ1/threshold = {ratio:.3g} at step {at.step}{_absolute(watch, at, ratio)}")

    earlier = [c for c in event.stable if c.step < kept[0].step]
    before = [watch.ratio_of(c, x, y)[0] for c in earlier]
    n["earlier"] = list(zip([c.step for c in earlier], before, strict=True))
    if earlier:
        d.lines.append("before: " + ", ".join(f"{r:.3g} at step {t}" for t, r in n["earlier"]))
    stable, fits = [(c, r) for c, r in zip(earlier, before, strict=True) if r < EDGE], []

    rises = np.diff(np.where(np.isfinite(event.reference), event.reference, np.nan))
    j = int(np.nanargmax(np.where(np.isfinite(rises), rises, -np.inf))) if np.isfinite(rises).any() else len(kept) - 1
    worst, at_worst, batch_vector, shares = _tell_the_batches(watch, event, d)
    later = [v for v in (*event.reference[worst + 1 :], watch.reference_loss(event.worst)) if not math.isnan(v)]
    moved = max(later) > 1.2 * event.reference[worst] if later else not event.finite
    others = {name: max(np.median(np.delete(n[name], worst)), 1e-12) for name in OUTLIER if name in n}
    above = {name: n[name][worst] / other for name, other in others.items() if n[name][worst] > 1}
    blame = moved and any(factor > OUTLIER[name] for name, factor in above.items())
    alone = ratio <= EVERYWHERE and max(above.values(), default=0) > OUTLIER["kernels"]
    recent = [r for t, r in n["earlier"] if t >= event.step - watch.every]
    crossed = max([ratio, *recent]) > EDGE
    if EDGE < max([ratio, *recent]) <= 1:
        d.lines.append(f"at the edge, between {EDGE} and 1 of the threshold, not seen over it")
    rising = earlier and _log_rates(watch, earlier[-1], at, vector) > 0.02  # η, since the last checkpoint
    since_start = math.exp(_log_rates(watch, earlier[0], at, vector)) if earlier else 1.0
    if crossed and stable:
        by_rate = [_log_rates(watch, c, at, vector) / math.log(max(ratio, 1) / max(r, 1e-12)) for c, r in stable]
        which = 0 if rising and by_rate[0] > 0.5 else -1
        (c, r), n["share of η"] = stable[which], by_rate[which]
        grew, by_eta = ratio / max(r, 1e-12), math.exp(_log_rates(watch, c, at, vector))
        d.lines.append(
            f"from step {c.step} to {at.step} λ1/threshold grew {grew:.3g}-fold, of which η gave {by_eta:.3g}-fold and "
            f"the curvature {grew / by_eta:.3g}-fold"
        )
        _tell_the_scale(watch, d, c, at, (x, y), ratio)
        fits.append(SCHEDULE if by_rate[which] > 0.5 else CURVATURE)
    elif crossed and rising and ratio / since_start < EDGE:
        fits.append(SCHEDULE)
        d.lines.append(
            f"η grew {since_start:.3g}-fold from step {earlier[0].step}; with the η of then λ1/threshold would be "
            f"{ratio / since_start:.3g}"
        )
    elif crossed and not n["returned"]:
        fits.append(DIVERGENCE)
        d.lines.append("no earlier step that was measured was well below the threshold, and the loss never came back")
    elif crossed:
        fits.append(CURVATURE)
        d.lines.append("no earlier step that was measured was well below the threshold: its crossing was not seen")
        if earlier:
            _tell_the_scale(watch, d, earlier[-1], at, (x, y), ratio)
    if blame:  # where the reference batch is far over the threshold too, the sharpest batch is not the cause
        fits.insert(0 if alone or not crossed else len(fits), BATCH)
    if not n["returned"] and DIVERGENCE not in fits and (not event.finite or event.peak > 1e3 * event.before or fits):
        fits.append(DIVERGENCE)
    d.story, d.others = (fits[0], fits[1:]) if fits else (UNKNOWN, [])
    if blame:
        j, vector, at, d.batch = worst, batch_vector, at_worst, kept[worst].step
        if shares is not None:
            order = shares.argsort(descending=True)[:5].tolist()
            d.samples = [(_name(kept[worst], i), shares[i].item()) for i in order]
            said = ", ".join(f"{name} ({100 * share:.0f}%)" for name, share in d.samples)
            d.lines.append(f"its heaviest samples, by their share of the kernel's top direction: {said}")
    _tell_the_share(watch, event, d, j, vector, at)


def _tell_the_scale(watch, d, old, new, batch, ratio):
    """What the optimizer's own scale of the parameters did to λ1(SHS): the ratio with the S of an earlier step."""
    if not watch.adaptive:
        return
    then = watch.ratio_of(new._replace(scale=at_rates(old, new.rates).scale), *batch)[0]
    d.numbers["scale of then"], name = then, type(watch.optimizer).__name__
    d.lines.append(
        f"with {name}'s scale of step {old.step} it would be {then:.3g} at step {new.step}: the change of scale gave "
        f"{ratio / max(then, 1e-12):.3g}-fold"
    )


def _tell_the_batches(watch, event, d):
    """Each kept batch at the first kept θ: the sharpest one's place, its top vector and its samples' shares."""
    kept, n = event.kept, d.numbers
    adaptive = [
        k if watch.adaptive and k.exact else kept[0] for k in kept
    ]  # Adam's S has the batch's own gradient in it
    at = [at_rates(k, kept[-1].rates)._replace(theta=kept[0].theta) for k in adaptive]
    each = [watch.ratio_of(a, k.x, k.y) for a, k in zip(at, kept, strict=True)]
    n["batches"], vectors, shares = np.array([r for r, _ in each]), [v for _, v in each], None
    found = [("batches", "λ1/threshold")]
    try:
        kernels = [watch.kernel_of(a, k.x) for a, k in zip(at, kept, strict=True)]
        n["kernels"] = np.array([r for r, _, _ in kernels])
        found.append(("kernels", "by its kernel"))
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        d.lines.append(f"no kernel and no samples' shares: {error}")
    worst, seen = None, False
    for name, what in found:
        values = n[name]
        top = int(values.argmax())
        others = float(np.median(np.delete(values, top)))
        rate = f": critical rate {1 / values[top]:.3g} η" if values[top] > 0 else ""
        d.lines.append(
            f"batches at step {kept[0].step}, {what}: that of step {kept[top].step} has {values[top]:.3g}{rate}; the "
            f"others {others:.3g} (median of {len(kept) - 1})"
        )
        outlies = values[top] > 1 and values[top] > OUTLIER[name] * max(others, 0)
        if worst is None or (outlies and not seen):
            worst = top
        seen = outlies
    if len(found) > 1:
        vectors, shares = [v for _, v, _ in kernels], kernels[worst][2]
    return worst, at[worst], vectors[worst], shares


def _tell_the_share(watch, event, d, j, vector, at):
    """How much of step j, and of the reference loss's rise in it, lies along the top direction."""
    thetas = [*(k.theta for k in event.kept), event.after]
    step = thetas[j + 1] - thetas[j]
    phi = torch.where(at.scale > 0, step / at.scale, torch.zeros_like(step))
    rise = event.reference[j + 1] - event.reference[j]
    if not torch.isfinite(phi).all() or not phi.any() or not (math.isfinite(rise) and rise > 0):
        return
    (value,), (share,) = directions.project(phi.double(), vector[:, None].double())
    alone = watch.reference_loss(thetas[j] + at.scale * (vector * value)) - event.reference[j]
    d.numbers |= {"share of step": float(share), "share of rise": alone / rise}
    back = next((k.step for k in event.kept if k.theta is thetas[j]), event.kept[j].step)
    steps = f"step {back}" if back == event.kept[j].step else f"steps {back}–{event.kept[j].step}"
    d.lines.append(
        f"{steps} raised the reference loss from {event.reference[j]:.4g} to "
        f"{event.reference[j + 1]:.4g}; its top direction alone gives {100 * alone / rise:.0f}% of the rise, with "
        f"{100 * share:.1f}% of the squared step (base rate {100 / watch.dim:.2g}%)"
    )


def at_rates(base, rates):
    """A kept step with other learning rates, where one rate holds for all parameters."""
    if base.rates == rates or len({*base.rates}) > 1 or len({*rates}) > 1 or not base.rates[0] > 0:
        return base
    return base._replace(scale=base.scale * math.sqrt(rates[0] / base.rates[0]), rates=rates)


def _absolute(watch, kept, ratio):
    """λ1 and the threshold themselves, where one learning rate holds for all parameters."""
    if len(set(kept.rates)) > 1:
        return f" (groups' η: {', '.join(f'{r:.4g}' for r in kept.rates)})"
    eta = kept.rates[0]
    return f" (λ1 = {ratio * watch.c / eta:.4g}, threshold {watch.c / eta:.4g}, η = {eta:.4g})" if eta else ""


def _log_rates(watch, old, new, vector):
    """The logarithm of the growth of η, each group's weighted by its share of the top direction."""
    group = {id(p): g for g, one in enumerate(watch.optimizer.param_groups) for p in one["params"]}
    parts = vector.split([p.numel() for _, p in watch.moving])
    weights = [(group[id(p)], part.square().sum().item()) for (_, p), part in zip(watch.moving, parts, strict=True)]
    return sum(w * math.log(new.rates[g] / max(old.rates[g], 1e-3 * new.rates[g])) for g, w in weights if new.rates[g])


def rows(x):
    return next((len(v) for v in _pytree.tree_leaves(x) if is_tensor(v) and v.ndim), 0)


def is_tensor(v):
    return isinstance(v, torch.Tensor)


def _name(kept, i):
    return i if kept.index is None else int(kept.index[i])


def _names(samples):
    return ", ".join(str(name) for name, _ in samples[:8])
