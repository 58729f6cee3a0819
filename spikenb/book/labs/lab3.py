"""Lab 3: features."""

import math

import numpy as np

from ... import agop, data
from . import question


@question("3.1")
def average_of_outer_products(function):
    rng = np.random.default_rng(31)
    for n, d in ((5, 3), (40, 6)):
        g = rng.standard_normal((n, d)) + 0.3
        right, found = g.T @ g / n, np.asarray(function(g.copy()), dtype=float)
        if found.shape != (d, d):
            return False, f"For {n} gradients in {d} dimensions the matrix has shape ({d}, {d}), not {found.shape}."
        if np.allclose(found, right):
            continue
        if np.allclose(found, np.outer(g.mean(0), g.mean(0))):
            why = "That is the outer product of the mean gradient. Take the product first, then the mean."
        elif np.allclose(found, g.T @ g):
            why = "That is the sum. An average has a factor 1/n, or it grows with the number of points."
        elif np.allclose(found, np.cov(g.T, bias=True)) or np.allclose(found, np.cov(g.T)):
            why = "That is the covariance: it takes the mean gradient off first, and a linear function would vanish."
        else:
            why = "Entry (i, j) is the mean of ∂f/∂x_i · ∂f/∂x_j over the points."
        return (
            False,
            f"For {n} gradients in {d} dimensions the entry (0, 0) should be {right[0, 0]:.3f}, not "
            f"{found[0, 0]:.3f}. {why}",
        )
    return True, "A direction v with vᵀGv = 0 is one that f does not see."


@question("3.2")
def diagonal_of_a_target(diagonal):
    target = data.Polynomial({((0, 1), (1, 1)): 1, ((2, 1),): 2})
    right = np.diag(agop.expected(target, 5).matrix.numpy())
    found = np.asarray(diagonal, dtype=float)
    if found.shape != right.shape:
        return False, f"Give five numbers, one an input; you gave shape {found.shape}."
    if np.allclose(found, right):
        return True, "Inputs 4 and 5 are zeros: f* does not know them."
    if np.allclose(found, [1, 1, 2, 0, 0]):
        return False, "The third is the square of the slope 2, and you have the slope. An outer product squares."
    if np.allclose(found, [0, 0, 4, 0, 0]):
        return False, (
            "You squared the mean gradient: x2 has mean zero, and so the first two vanish. The mean is of the squares."
        )
    wrong = int(np.argmax(~np.isclose(found, right)))
    return (
        False,
        f"Entry {wrong + 1} is not {found[wrong]:g}. Write down ∂f*/∂x_{wrong + 1}, and the mean of its square.",
    )


@question("3.3")
def cosine_of_two_matrices(function):
    rng = np.random.default_rng(33)
    truth = np.diag([1.0, 1, 0, 0, 0])
    for scale in (1.0, 7.0):
        a = rng.standard_normal((8, 5))
        G = scale * a.T @ a / 8
        found = np.asarray(function(G.copy(), truth.copy()), dtype=float)
        if found.ndim:
            return False, f"A cosine is one number; you return shape {found.shape}. Sum the products of the entries."
        found = float(found)
        right = (G * truth).sum() / np.sqrt((G**2).sum() * (truth**2).sum())
        if math.isclose(found, right, rel_tol=1e-9):
            continue
        if math.isclose(found, (G * truth).sum(), rel_tol=1e-9):
            why = "You do not divide by the lengths. Ten times the function would be a hundred times as aligned."
        elif math.isclose(found, np.corrcoef(G.ravel(), truth.ravel())[0, 1], rel_tol=1e-9):
            why = "That is the correlation, which takes the mean entry off. The cosine does not."
        elif math.isclose(found, (G * truth).sum() / (np.linalg.norm(G, 2) * np.linalg.norm(truth, 2)), rel_tol=1e-9):
            why = (
                "You divide by the largest eigenvalues. The length of a matrix read as a vector is its Frobenius norm."
            )
        elif math.isclose(found, (G * truth).sum() / ((G**2).sum() * (truth**2).sum()), rel_tol=1e-9):
            why = "You divide by the squares of the lengths."
        else:
            why = "Read as vectors: their inner product, over the product of their lengths."
        return False, f"The cosine is {right:.4f}, not {found:.4f}. {why}"
    return True, "Between 0 and 1 for such matrices. Where does it begin?"


@question("3.4")
def base_of_the_scale(base):
    nothing = agop.expected("full rank", 50)  # I/d²
    right = agop.alignment(nothing, agop.expected(data.LOW_RANK["rank-2"], 50))
    if math.isclose(base, right, rel_tol=0.01):
        return True, (
            "In 50 dimensions 0.2 is what no preference scores, and in 30 it is 0.26: read all others against it. An "
            "untrained net has preferences by chance, and can lie on either side."
        )
    if abs(base) < 1e-9:
        return False, "Not zero: the identity has entries where G* has them. tr(I G*) is 2."
    if math.isclose(base, 2**0.5 / 50, rel_tol=0.02):
        return False, "That is a single random direction. The identity prefers nothing: ‖I‖_F is √50."
    if math.isclose(base, 2 / 50, rel_tol=0.01):
        return False, "That lacks a square root: the length of I is √50, that of G* is √2, and tr(I G*) = 2."
    return False, f"It is not {base:.3g}. With G = I, tr(G G*) = 2; what are the two lengths?"


@question("3.5")
def time_rate_or_throw(cause, plain, thrown, longer, faster):
    """Each run as (test loss, alignment)."""
    known = ("time", "rate", "throw", "cannot tell")
    if cause not in known:
        return False, f"Choose one of {', '.join(map(repr, known))}; you wrote {cause!r}."
    gain = plain[0] - thrown[0]
    if gain <= 0:
        return cause == "cannot tell", f"The throws gained nothing in test loss here ({gain:.2f}): no control can tell."
    kept = {"time": (plain[0] - longer[0]) / gain, "rate": (plain[0] - faster[0]) / gain}
    seen = (
        f"Of the gain in test loss, {gain:.2f}, {kept['time']:.0%} comes with three times the steps, "
        f"{kept['rate']:.0%} with a rate just below the critical one."
    )
    explain = [name for name, share in kept.items() if share > 2 / 3]
    out = max(kept.values()) < 1 / 3
    right = explain[0] if len(explain) == 1 else "throw" if out else "cannot tell"
    if cause == right:
        return True, f"{seen} On this target, at this size; chapter 12 has others."
    if len(explain) == 2:
        return False, f"{seen} Each control alone explains the gain; the criterion names a cause only where one does."
    if cause in kept:
        return False, f"{seen} If it were the {cause}, that control would have gained about as much as the throws."
    if out:
        return False, f"{seen} Both are below a third. What does the criterion say then?"
    return False, f"{seen} Hold both against a third and two thirds."


@question("3.6")
def rate_for_the_same_noise(function):
    for eta, b, other in ((0.5, 5, 2), (2.0, 10, 40)):
        found, right = float(function(eta, b, other)), other * (eta / b)
        if math.isclose(found, right, rel_tol=1e-9):
            continue
        if math.isclose(found, eta * b / other, rel_tol=1e-9):
            why = "That multiplies η by what b was divided by, so η/b moves twice as far."
        elif math.isclose(found, eta, rel_tol=1e-9):
            why = "η/b is not the same then: b has changed."
        elif math.isclose(found, eta * (other / b) ** 0.5, rel_tol=1e-9):
            why = "That keeps η²/b, the rule for another optimizer. Here η/b is to stay."
        else:
            why = "Solve η'/b' = η/b."
        return (
            False,
            f"From batches of {b} at η = {eta:g} to batches of {other} it is {right:.3g}, not {found:.3g}. {why}",
        )
    return True, "Small batches at a small rate are as noisy as large ones at a large rate."


@question("3.7")
def what_is_kept(function):
    for gd, plain, capped in ((0.9, 0.25, 0.4), (0.6, 0.3, 0.57), (0.6, 0.5, 0.7), (0.6, 0.4, 0.35)):
        found, right = float(function(gd, plain, capped)), 1 - (capped - plain) / (gd - plain)
        if math.isclose(found, right, rel_tol=1e-9):
            continue
        if math.isclose(found, 1 - right, rel_tol=1e-9):
            why = "That is the share that is lost."
        elif math.isclose(found, plain / capped, rel_tol=1e-9) or math.isclose(found, capped / plain, rel_tol=1e-9):
            why = "A ratio of losses has no zero: hold both against gradient descent, which has no gain at all."
        elif math.isclose(found, gd - capped, rel_tol=1e-9):
            why = "That is the gain itself. Which share of the whole gain is it?"
        elif any(math.isclose(found, (gd - capped) / loss, rel_tol=1e-9) for loss in (gd, plain, capped)):
            why = "A share of the gain is asked, not of a loss: the gain is gd - sgd."
        elif right < 0 and found == 0:
            why = "A capped run that is worse than gradient descent keeps less than nothing: do not cut it off."
        elif right > 1 and found == 1:
            why = "A capped run that is better than SGD keeps more than all: do not cut it off."
        else:
            why = "The gain is the test loss of gradient descent less that of the run."
        return False, f"With losses {gd}, {plain}, {capped} the share kept is {right:.3f}, not {found:.3f}. {why}"
    return True, "0 means that the catapults made all of the gain, 1 that they made none of it."


@question("3.8")
def catapults_or_noise(verdict, gd, plain, capped):
    """From the losses: a wrong answer to 3.7 must not make a wrong one right here."""
    known = ("catapults", "noise", "both")
    if verdict not in known:
        return False, f"Choose one of {', '.join(known)}; you wrote {verdict!r}."
    share = 1 - (capped - plain) / (gd - plain)
    right = "catapults" if share < 1 / 3 else "noise" if share > 2 / 3 else "both"
    seen = f"The capped run keeps {share:.0%} of the gain."
    if verdict == right:
        return True, f"{seen} One data set and one start: what would you run before you believed it?"
    if verdict == "catapults":
        return False, f"{seen} The capped run has no step above a batch's critical rate, and still gains."
    return False, f"{seen} The criterion stood before the run: below a third, above two thirds, or between."
