"""Lab 1: stability and spikes."""

import math

import numpy as np

from ...curvature import top_eigenvalue
from ...descent import gd
from ...measure.spikes import find_spikes
from ...problem import Problem
from . import question


@question("1.1")
def nine_tenths_on_the_other_side(rate):
    factor = 1 - 25 * rate
    if math.isclose(factor, -0.9, rel_tol=1e-6):
        return True, "The loss falls at every step, and θ changes sides at every step."
    if math.isclose(factor, 0.9, rel_tol=1e-6):
        return (
            False,
            "This rate also leaves nine tenths, but on the same side: it does not overshoot. Solve 1 - ηλ = -0.9.",
        )
    if math.isclose(factor, -1, rel_tol=1e-6):
        return False, "This is the threshold 2/λ itself: the distance stays as it is. Solve 1 - ηλ = -0.9."
    return False, f"With η = {rate:g} one step multiplies θ by {factor:.3g}, not by -0.9."


@question("1.2")
def many_directions(function):
    rng = np.random.default_rng(12)
    q = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    cases = [(np.diag([1.0, 3.0, 9.0]), 0.2), (np.diag([1.0, 3.0, 9.0]), 0.23)]
    for top in (20.0, 40.0):
        H = q @ np.diag([top, 12, 5, 1]) @ q.T
        cases += [(H, 1.9 / top), (H, 2.1 / top)]
    for H, eta in cases:
        values = np.linalg.eigvalsh(H)
        right, found = bool(eta * values[-1] < 2), bool(function(H.copy(), eta))
        if right == found:
            continue
        if found == bool(eta * np.trace(H) < 2):
            why = (
                "Does your test use the trace, the sum of all curvatures? The directions do not add up: each is alone."
            )
        elif found == bool(eta * np.diag(H).max() < 2):
            why = "Does your test use the diagonal? That is the curvature along the axes, and this H is not diagonal."
        elif found == bool(eta * values[0] < 2):
            why = "Does your test use the smallest eigenvalue? One unstable direction is enough to carry the loss away."
        else:
            why = "Which eigenvalue decides, and on which side of 2/η must it lie?"
        return False, (
            f"For a Hessian with the eigenvalues {values.round(2).tolist()} and η = {eta:.3g}, 2/η is {2 / eta:.3g}, "
            f"and your function says {found}. {why}"
        )
    return True, "The largest eigenvalue alone decides: the sharpness."


@question("1.3")
def length_of_the_silence(function):
    for eta_lam, share in [(2.2, 1e-4), (2.5, 1e-8), (2.1, 0.5), (3.0, 1e-12)]:
        growth, found = eta_lam - 1, function(eta_lam, share)
        right = math.ceil(math.log(1 / share) / (2 * math.log(growth)))
        if found == right:
            continue
        if abs(found - math.log(1 / share) / math.log(growth)) < 1.01:
            why = "That is when θ has grown so much. The loss is its square, so it grows twice as fast on a log scale."
        elif abs(found - math.log(1 / share) / (2 * math.log(eta_lam))) < 1.01:
            why = "You let θ grow by the factor ηλ. Which factor does a step apply? Its size is |1 - ηλ|."
        elif abs(found - right) < 1.01:
            why = "Round up to a whole step."
        else:
            why = "Solve share · |1 - ηλ|^(2t) ≥ 1 for t."
        return False, f"At ηλ = {eta_lam} and a share of {share:g} the first such step is {right}, not {found}. {why}"
    return True, "A share that is ten thousand times smaller costs only a few steps more: silence is a logarithm."


@question("1.4")
def one_rule_two_rates(function):
    edge, eta = 40.0, 0.05
    rng = np.random.default_rng(14)
    few = np.array([1, 0.9, 0.95, 0.9, 1, 0.8, 0.9]), edge + np.array([2.0, 2, -2, 2, -1, 2, -2])
    many = 1 + np.cumsum(np.where(rng.random(61) < 0.3, 0.01, -0.005)), edge + rng.choice([-3.0, 2.0], 61)
    for loss, sharpness in (few, many):
        rises, sharp = np.diff(loss) > 0, sharpness[:-1] > edge
        try:
            found = function(loss.copy(), sharpness.copy(), eta)
        except IndexError as error:
            return False, (
                f"Your answer raised IndexError: {error}. There is one loss, and one sharpness, more than there are "
                "steps: which of the sharpnesses has no step after it?"
            )
        if not (isinstance(found, tuple | list) and len(found) == 2):
            return False, "Your function must return two numbers: (sharp given rise, rise given sharp)."
        right, found = (np.mean(sharp[rises]), np.mean(rises[sharp])), tuple(float(v) for v in found)
        if np.allclose(found, right, atol=1e-9):
            continue
        if np.allclose(found, right[::-1], atol=1e-9):
            why = "Your two numbers are exchanged: 'given that the loss rises' means: of the steps on which it rises."
        elif abs(found[0] - np.mean(rises == sharp)) < 1e-9 or abs(found[1] - np.mean(rises == sharp)) < 1e-9:
            why = (
                "You return how often the two agree. That mixes both directions of the rule; count within a condition."
            )
        elif abs(found[0] - np.mean(rises & sharp)) < 1e-9:
            why = "You divide by all steps. Divide by the number of steps that meet the condition."
        else:
            why = "Step t goes from loss[t] to loss[t + 1], and its sharpness is sharpness[t]."
        return (
            False,
            f"On {len(rises)} made-up steps the answer is ({right[0]:.3f}, {right[1]:.3f}), not ({found[0]:.3f}, "
            f"{found[1]:.3f}). {why}",
        )
    return True, "Two rates, because 'if' has a direction."


@question("1.5")
def what_the_run_says(reading, loss, sharpness, eta):
    known = ("necessary", "sufficient", "both", "neither")
    if reading not in known:
        return False, f"Choose one of {', '.join(known)}; you wrote {reading!r}."
    lam = (np.asarray(sharpness)[1:] + np.asarray(sharpness)[:-1]) / 2
    rises, sharp = np.diff(loss) > 0, lam > 2 / eta
    first, second = np.mean(sharp[rises]), np.mean(rises[sharp])
    counts = f"When the loss rises, λmax > 2/η on {first:.0%} of the steps; when λmax > 2/η, it rises on {second:.0%}."
    right = {(True, False): "necessary", (False, True): "sufficient", (True, True): "both"}
    right = right.get((bool(first > 0.9), bool(second > 0.9)), "neither")
    if reading == right:
        return True, counts
    if reading == "sufficient":
        return (
            False,
            f"{counts} 'Sufficient' would mean that a step above the threshold raises the loss. Which rate is that?",
        )
    if reading == "both":
        return False, f"{counts} 'Both' needs two rates near 1. Think of the silent steps of question 1.3."
    return False, f"{counts} A condition is necessary if the effect never comes without it."


@question("1.6")
def a_schedule_without_spikes(function):
    toy = Problem(lambda v: (50 * v[0] + 200) * v[1] ** 2 - v[0] + 5, dim=2, inside=lambda v: v[0] > -4)
    start, steps = [0.5, 1e-3], 600
    run = gd(toy, start, function, steps, record={"λ": top_eigenvalue})
    if run.stopped:
        return False, f"The run {run.stopped}. Is η below 2/λmax at each step?"
    worst = int(np.diff(run.loss).argmax())
    if run.loss[worst + 1] > run.loss[worst] + 1e-9:
        return False, (
            f"The loss still rises, most of all at step {worst}, where η·λmax is "
            f"{run.lr[worst] * run['λ'].values[worst]:.2f}. The rate must follow λmax as the valley gets sharper: "
            "measure it at θ, at this step, and stay below 2."
        )
    if run.time[-1] < 1.2:
        return False, (
            f"No spike, but the run has come only {run.time[-1]:.2f} units of time far, of 1.2 that are easy to have. "
            "A small constant rate pays everywhere for what only the sharpest place asks."
        )
    return True, f"No spike, and the loss ends at {run.loss[-1]:.2f}. What does measuring λmax cost for a large net?"


@question("1.7")
def counting_events(function):
    t = np.arange(4000.0)
    first = 50 * np.exp(-t / 20)

    def bump(at, height, width=15):
        return height * np.exp(-(((t - at) / width) ** 2))

    slow = 0.02 + 0.001 * np.cos(t / 3)
    cases = {
        "a quiet curve": (slow + first, 0),
        "a curve with two spikes, tenfold and more": (slow + first + bump(1500, 1) + bump(3000, 0.6), 2),
        "a curve with one spike of a factor four and one of forty": (
            slow + first + bump(1200, 0.06) + bump(2600, 0.8),
            1,
        ),
        "a curve that spikes in its first descent, at step 400": (slow + first + bump(400, 2) + bump(2000, 1), 1),
    }
    for name, (loss, right) in cases.items():
        found = function(loss.copy())
        if not isinstance(found, int | float | np.number):
            return False, f"Return a number, not {type(found).__name__}: how many events are there?"
        if found == right:
            continue
        if right and found and found > 4 * right:
            why = "You count steps. A spike is one event, however many steps it has."
        elif "first descent" in name:
            why = "What happens in the first 500 steps is left out by agreement."
        elif "factor four" in name:
            why = "By agreement a spike's peak is at least ten times the loss before and after it."
        else:
            why = "`find_spikes(loss, ratio=10)` returns one `Spike` an event, with its `step`."
        return False, f"For {name} your function counts {found}, not {right}. {why}"
    return True, "An event has a definition, so that two people count the same."


@question("1.8")
def what_can_be_reproduced(claim, runs):
    """Counted anew: a wrong answer to 1.7 must not make a wrong one right here."""
    known = ("epoch", "count", "both", "neither")
    if claim not in known:
        return False, f"Choose one of {', '.join(known)}; you wrote {claim!r}."
    counts = [sum(s.step >= 500 for s in find_spikes(run.loss, 300, 10)) for run in runs]
    spread = int(np.ptp([run.loss[500:].argmax() for run in runs]))
    same = int(np.ptp(counts)) == 0
    seen = (
        f"A change in the sixteenth digit moves the peak by up to {spread} epochs; the counts are "
        f"{sorted(set(counts))}."
    )
    right = {(True, False): "epoch", (False, True): "count", (True, True): "both"}
    right = right.get((spread == 0, same), "neither")
    if claim == right:
        return True, f"{seen} Detect events, and count them over starts."
    if claim in ("epoch", "both"):
        return False, f"{seen} A number that rounding can change is no finding. Which of the two stays?"
    return False, f"{seen} Look at both lists again."
