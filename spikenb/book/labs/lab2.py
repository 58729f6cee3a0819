"""Lab 2: catapults."""

import math

import numpy as np
import torch

from ... import data, networks, tangent
from ...descent import gd
from ...problem import Fit
from . import question


def digits_net():
    """The lab's own net: five layers of width 256 on 128 threes and eights. Returns fit, start and η_crit."""
    images, labels = data.load("digits", 128, [3, 8])
    x, y = data.rotated(data.standardised(images)), data.signs(labels)
    net = networks.fcn(x.shape[1], 256, 5)
    fit, start = Fit(net, x, y), networks.ntk(net, seed=0).to(x)
    return fit, start, tangent.critical_learning_rate(fit, tangent.kernel(fit, start))


@question("2.1")
def rate_from_a_jacobian(function):
    rng = np.random.default_rng(21)
    for n, p in ((4, 10), (12, 30), (7, 9), (9, 40)):
        J = torch.from_numpy(rng.standard_normal((n, p)))
        values = torch.linalg.eigvalsh(J @ J.T)
        found, right = float(function(J)), n / values[-1].item()
        if math.isclose(found, right, rel_tol=1e-6):
            continue
        if math.isclose(found, 2 / values[-1].item(), rel_tol=1e-6):
            why = "2/‖K‖ belongs to the loss ½Σr². Here the loss is the mean of r², whose gradient is (2/n) Jᵀr."
        elif math.isclose(found, n / values.sum().item(), rel_tol=1e-6):
            why = "You divide by the trace of K, the sum of its eigenvalues. ‖K‖ is the largest of them."
        elif math.isclose(found, n / torch.linalg.matrix_norm(J @ J.T).item(), rel_tol=1e-6):
            why = "`matrix_norm` without an order is the root of all squared entries. ‖K‖ is the largest eigenvalue."
        elif math.isclose(found, n / values[-1].item() ** 0.5, rel_tol=1e-6):
            why = "That is n over the largest singular value of J. K = JJᵀ has its square."
        else:
            why = "The residual along an eigenvector of K is multiplied by 1 - 2ηλ/n. When is that -1?"
        return False, f"For a {n} × {p} Jacobian η_crit is {right:.4g}, not {found:.4g}. {why}"
    return True, "Beyond it a linear model explodes. And a net?"


@question("2.2")
def a_rate_that_throws(factor):
    if isinstance(factor, str):
        return False, "Give a number, without quotes."
    fit, start, critical = digits_net()
    run = gd(fit, start, float(factor) * critical, 60)
    if run.stopped:
        rate = " If you gave the rate itself, give its multiple of η_crit." if 1 < factor / critical < 4.2 else ""
        return (
            False,
            f"At {factor:g} η_crit the run {run.stopped}. The net does not survive every rate: go lower.{rate}",
        )
    high = run.loss.max() / run.loss[0]
    if high < 1.5:
        return False, f"At {factor:g} η_crit the loss never exceeds {high:.2f} times its start: go higher."
    if run.loss[-1] > 0.2 * run.loss[0]:
        return False, f"At {factor:g} η_crit the loss goes up, and is not back within 60 steps. Try a lower rate."
    return True, f"The loss rises to {high:.1f} times its start and ends at {run.loss[-1] / run.loss[0]:.2g} of it."


@question("2.3")
def share_in_the_top(function):
    rng = np.random.default_rng(23)
    for n, s in ((6, 2), (20, 5), (9, 3), (14, 4)):
        J = torch.from_numpy(rng.standard_normal((n, 40)) * np.geomspace(3, 0.2, n)[:, None])
        K, r = J @ J.T, torch.from_numpy(rng.standard_normal(n))
        vectors = torch.linalg.eigh(K)[1]
        parts = (vectors.T @ r) ** 2
        right, found = (parts[-s:].sum() / parts.sum()).item(), float(function(K.clone(), r.clone(), s))
        if math.isclose(found, right, rel_tol=1e-6):
            continue
        if math.isclose(found, (parts[:s].sum() / parts.sum()).item(), rel_tol=1e-6):
            why = "These are the bottom directions: `eigh` gives the eigenvalues in ascending order."
        elif math.isclose(found, (parts[-s:].sqrt().sum() / parts.sqrt().sum()).item(), rel_tol=1e-6) or math.isclose(
            found, (parts[-s:].sum() / parts.sum()).item() ** 0.5, rel_tol=1e-6
        ):
            why = "Square the components: the loss is a sum of squares, and only squares add up to it."
        elif math.isclose(found, ((vectors[-s:] @ r) ** 2).sum().item() / parts.sum().item(), rel_tol=1e-6):
            why = "The eigenvectors are the columns of the matrix, and you take rows."
        else:
            why = "Project r on the s eigenvectors of the largest eigenvalues; divide by Σr²."
        return False, f"For {n} points and s = {s} the share is {right:.4f}, not {found:.4f}. {why}"
    return True, "With it you can say where a spike is."


@question("2.4")
def over_the_rate_of_the_moment(function):
    norms, n = np.array([10.0, 12, 15, 9, 4, 3, 5, 8, 11, 7]), 128
    etas = np.array([128 / 10.5, 128 / 6])
    critical = n / norms
    right = etas[:, None] > critical
    found = [np.asarray(function(norms.copy(), eta, n)).astype(bool) for eta in etas]
    for part in found:
        if part.shape != norms.shape:
            return False, f"Return one value for each ‖K‖, shape {norms.shape}, not {part.shape}."
    if (found == right).all():
        return True, "After a throw the same rate is below the line, because the line has moved."
    if (found == ~right).all():
        why = "It is the other way round: too large a rate is one above n/‖K‖."
    elif (found == np.repeat(etas[:, None] > critical[0], len(norms), 1)).all():
        why = "You use the critical rate of the first step throughout. ‖K‖ moves, and η_crit with it."
    elif (found == (etas[:, None] > 2 * critical)).all():
        why = "The 2 is too much: for a mean of squared residuals the critical rate is n/‖K‖."
    elif np.all(found) or not np.any(found):
        why = "You find every step alike, at two rates. Where is the n, and on which side? The critical rate is n/‖K‖."
    else:
        why = "Compare η with n/‖K‖ at each step."
    k = int(np.argmax((found != right).any(1)))
    return False, (
        f"With η = {etas[k]:.3g}, ‖K‖ = {norms.astype(int).tolist()} and n = {n}, {right[k].sum()} steps are over, not "
        f"{found[k].sum()}. {why}"
    )


@question("2.5")
def rate_of_a_batch(function):
    rng = np.random.default_rng(25)
    J = torch.from_numpy(rng.standard_normal((20, 60)) * rng.uniform(0.5, 2, (20, 1)))
    K = J @ J.T

    def norm(part):
        return torch.linalg.eigvalsh(part)[-1].item()

    for batch in ([0, 3, 7, 11], list(range(5, 17))):
        block, b = K[np.ix_(batch, batch)], len(batch)
        found, right = float(function(K.clone(), np.array(batch))), b / norm(block)
        if math.isclose(found, right, rel_tol=1e-6):
            continue
        if math.isclose(found, len(K) / norm(block), rel_tol=1e-6):
            why = "You divide n by the block's norm. The batch's loss is a mean over its own b points."
        elif math.isclose(found, b / norm(K), rel_tol=1e-6):
            why = "You take the norm of the whole kernel. A step on the batch knows the batch's points alone."
        elif math.isclose(found, len(K) / norm(K), rel_tol=1e-6):
            why = "That is the rate of the whole set."
        elif math.isclose(found, 2 * right, rel_tol=1e-6):
            why = "The 2 is too much: for a mean of squared residuals the critical rate is b/‖K_b‖."
        elif math.isclose(found, right / b, rel_tol=1e-6):
            why = "Where is the b? The batch's loss is a mean over its b points."
        elif math.isclose(found, b / torch.linalg.matrix_norm(block).item(), rel_tol=1e-6):
            why = "`matrix_norm` without an order is the root of all squared entries. ‖K‖ is the largest eigenvalue."
        elif math.isclose(found, b / norm(block) ** 2, rel_tol=1e-6):
            why = "You square the block: `critical_rate` of 2.1 takes J, and here the kernel is given."
        else:
            why = "It is b over the largest eigenvalue of the block of K with the batch's rows and columns."
        return False, f"For the batch {batch} of 20 points the rate is {right:.4g}, not {found:.4g}. {why}"
    return True, "Each batch has a line of its own; SGD crosses some of them and not others."


@question("2.6")
def three_throws(rates):
    rates = [float(rate) for rate in rates]
    if len(rates) != 3:
        return False, f"Give three multiples of η_crit, for steps 0, 20 and 50; you gave {len(rates)}."
    fit, start, critical = digits_net()
    run = gd(fit, start, lambda t, *_: critical * rates[0 if t < 20 else 1 if t < 50 else 2], 100)
    if run.stopped:
        first = " From the start it stands far less than after a catapult." if rates[0] > 4 else ""
        return False, f"The run {run.stopped}.{first}"
    for k, (a, b) in enumerate(((0, 20), (20, 50), (50, 101)), 1):
        high = run.loss[a:b].max() / run.loss[a]
        if high < 1.2:
            order = ("first", "second", "third")[k - 1]
            before = "" if k == 1 else " A catapult before has raised η_crit; this rate must be above the new one."
            return False, (
                f"The {order} rate, {rates[k - 1]:g}, sets off no catapult: the loss goes "
                f"to {high:.2f} times that at step {a}.{before}"
            )
    if rates[2] < 4:
        return False, f"Three throws, but the last rate is {rates[2]:g} η_crit. Go to 4 at least."
    return True, f"Three throws, and the net stands {rates[2]:g} times the critical rate of its start."


@question("2.7")
def over_the_base_rate(function):
    rng = np.random.default_rng(27)
    for length in (40, 200):
        over = rng.random(length) < 0.6
        rises = rng.random(length) < np.where(over, 0.5, 0.3)
        match, base = over[rises].mean(), over.mean()
        found, right = float(function(rises.copy(), over.copy())), match - base
        if math.isclose(found, right, abs_tol=1e-9):
            continue
        if math.isclose(found, match, abs_tol=1e-9):
            why = (
                "That is the match rate alone. By chance it would be the share of all steps over the line: take it off."
            )
        elif math.isclose(found, np.mean(rises == over), abs_tol=1e-9) or math.isclose(
            found, np.mean(rises == over) - base, abs_tol=1e-9
        ):
            why = (
                "You count how often the two agree. The match rate looks at the steps on which the loss rises, no "
                "others."
            )
        elif math.isclose(found, rises[over].mean() - rises.mean(), abs_tol=1e-9):
            why = "You took 'it rises, given over'. The source's match rate is 'over, given that it rises'."
        else:
            why = "Match rate: of the steps that rise, how many are over. Base rate: of all steps, how many are over."
        return False, f"On {length} made-up steps the lift is {right:.3f}, not {found:.3f}. {why}"
    return True, "A match rate of 97% at a base rate of 97% is worth nothing; and ask of which loss it is."


@question("2.8")
def how_batches_differ(answer):
    """Measured anew: a wrong answer to 2.5 must not make a wrong one right here."""
    known = ("lower and more spread", "higher and more spread", "the same")
    if answer not in known:
        return False, f"Choose one of {', '.join(map(repr, known))}; you wrote {answer!r}."
    fit, start, critical = digits_net()
    rng = np.random.default_rng(0)
    batches = {b: np.array([rng.choice(len(fit), b, replace=False) for _ in range(40)]) for b in (8, 64)}
    kernel = tangent.kernel(fit, start)
    small, large = (tangent.batch_critical_learning_rates(fit, kernel, rows) / critical for rows in batches.values())
    seen = (
        f"Batches of 8: median {np.median(small):.2f} η_crit, spread {np.std(np.log(small)):.3f}; "
        f"of 64: {np.median(large):.2f}, {np.std(np.log(large)):.3f}."
    )
    wide = np.std(np.log(small)) > 1.2 * np.std(np.log(large))
    right = known[2] if not wide else known[0] if np.median(small) < np.median(large) else known[1]
    if answer == right:
        return True, seen
    if answer == known[2]:
        return False, f"{seen} Compare the spreads."
    return False, f"{seen} Compare the medians."
