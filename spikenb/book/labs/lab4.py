"""Lab 4: testing a strong claim."""

import math
import warnings

import numpy as np

from . import question

SIZES = np.array([25.0, 50, 100, 200, 400])


@question("4.1")
def line_through_a_root(r2):
    r = np.corrcoef(SIZES, np.sqrt(SIZES))[0, 1]
    if math.isclose(r2, r**2, abs_tol=0.002):
        return True, "A straight line explains 97% of a law that is no straight line, without any noise."
    if math.isclose(r2, r, abs_tol=0.002):
        return False, "That is r. R² is its square."
    if math.isclose(r2, 100 * r**2, abs_tol=0.2):
        return False, "Give R² as a fraction of 1, not in per cent."
    if math.isclose(r2, 1, abs_tol=0.002):
        return False, "Exactly 1 you get on two log scales, or for √n against √n. The line is fitted in n itself."
    return False, f"It is not {r2:.4g}. R² of a straight line is the square of a correlation; of which two arrays?"


@question("4.2")
def errors_left_out(function):
    def line(n, p):
        slope, shift = np.polyfit(n, p, 1)
        return lambda at: slope * at + shift

    rng = np.random.default_rng(42)
    for length in (5, 7):
        n = 25.0 * 2 ** np.arange(length)
        p = (8 + 0.1 * n) * np.exp(0.2 * rng.standard_normal(length))
        right = np.array([abs(np.log(line(np.delete(n, i), np.delete(p, i))(n[i]) / p[i])) for i in range(length)])
        found = np.asarray(function(line, n.copy(), p.copy()), dtype=float)
        if found.shape != right.shape:
            return False, f"Return one error a size, shape {right.shape}, not {found.shape}."
        if np.allclose(found, right, atol=1e-9):
            continue
        inside = abs(np.log(line(n, p)(n) / p))
        plain = np.array([abs(line(np.delete(n, i), np.delete(p, i))(n[i]) - p[i]) for i in range(length)])
        if np.allclose(found, inside, atol=1e-9):
            why = (
                "You fit to all points, the one to be predicted too. A law with enough numbers fits anything that it "
                "has seen."
            )
        elif np.allclose(found, plain, atol=1e-9) or np.allclose(found, abs(line(n, p)(n) - p), atol=1e-9):
            why = (
                "Take the error in the logarithm: a peak of 10 that is off by 2 is as wrong as one of 50 that is off "
                "by 10."
            )
        elif np.allclose(abs(found), right, atol=1e-9):
            why = "Take absolute values: errors of both signs would cancel."
        else:
            why = "`np.delete(n, i)` leaves out point i; fit to the rest, predict n[i], compare with p[i]."
        k = int(np.argmax(~np.isclose(found, right, atol=1e-9)))
        return False, f"With {length} sizes the error of point {k} is {right[k]:.4f}, not {found[k]:.4f}. {why}"
    return True, "A law is judged by points that it has not seen."


@question("4.3")
def criterion_that_can_fail(function):
    """How often it accepts four known laws, with a scatter of ten per cent."""
    laws = {
        "linear": lambda n: 0.15 * n,
        "root": lambda n: 2 * np.sqrt(n),
        "square": lambda n: n**2 / 500,
        "flat": lambda n: 20 + 0 * n,
    }
    accepted, warned = {}, []
    for name, law in laws.items():
        rng = np.random.default_rng(43)
        draws = [law(SIZES) * np.exp(0.1 * rng.standard_normal(len(SIZES))) for _ in range(200)]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            accepted[name] = np.mean([bool(function(SIZES.copy(), peaks)) for peaks in draws])
        warned += [str(w.message) for w in caught]
    counts = ", ".join(f"{name} {share:.0%}" for name, share in accepted.items())
    if min(accepted.values()) > 0.9:
        return False, f"It accepts: {counts}. A criterion that cannot fail is no test."
    if accepted["linear"] < 0.9:
        if any("invalid value" in message for message in warned):
            why = (
                "Some law that you fit predicts a negative peak: its logarithm is nan, and a comparison with nan False."
            )
        else:
            why = "Is it stricter than the scatter of single runs allows?"
        return False, f"It accepts: {counts}. It turns down the claim where it is true. {why}"
    if accepted["flat"] > 0.9:
        return False, f"It accepts: {counts}. A flat series is no rise, and yours has no lower end."
    if accepted["flat"] > 0.1:
        return (
            False,
            f"It accepts: {counts}. Without any law it passes by chance: what is it that a flat series has as well?",
        )
    if accepted["root"] > 0.1:
        return False, (
            f"It accepts: {counts}. It tells a rise from none, but not n from √n, and 'linear' is the claim. "
            "What is the slope of each on two log scales?"
        )
    if accepted["square"] > 0.1:
        return False, f"It accepts: {counts}. n² rises too fast to be linear, and your criterion has no upper end."
    return True, f"It accepts: {counts}."


@question("4.4")
def count_at_the_edge(function):
    cases = [
        ([50.0, 40, 31, 29, 9], 0.05),
        ([50.0, 40, 31, 29, 9], 0.02),
        ([18.0, 14.9, 3], 0.1),
        ([200.0, 80, 75, 74], 0.02),
    ]
    for values, eta in cases:
        lam = np.array(values)
        right, found = int(np.sum(lam >= 1.5 / eta)), np.asarray(function(lam.copy(), eta), dtype=float)
        if found.ndim:
            return False, f"Return one number, how many; you return shape {found.shape}."
        if found == right:
            continue
        if found == (eta * lam >= 0.75).sum():
            why = "ρ is ηλ/2, and the 2 is missing."
        elif found == (eta * lam / 2 >= 1).sum():
            why = "By agreement 0.75 counts as at the edge, for a run moves about it and is seldom seen above."
        elif found == (lam >= 0.75).sum():
            why = "The threshold depends on η."
        elif found == (eta * lam / 2 > 0.75).sum():
            why = "A ρ of exactly 0.75 counts."
        elif found == (eta * lam / 2 >= 0.75).mean():
            why = "That is a share. How many are they?"
        else:
            why = "Count the λ with ηλ/2 ≥ 0.75."
        return False, f"With λ = {values} and η = {eta} the count is {right}, not {found:g}. {why}"
    return True, "Counting needs an agreement, made before the run."


@question("4.5")
def verdict_by_rule(function):
    yes, no = [True] * 10, [False] * 10
    cases = [
        (yes, no, "holds", "ten of ten, control never"),
        ([True] * 9 + [False], no, "holds", "nine of ten, control never"),
        ([True] * 7 + [False] * 3, no, "does not hold", "seven of ten, control never"),
        (yes, yes, "not settled here", "ten of ten, and the control ten of ten"),
        (yes, [True] * 2 + [False] * 8, "holds", "ten of ten, and the control two of ten"),
        (no, yes, "does not hold", "never, and the control ten of ten"),
        ([True] * 8 + [False] * 2, no, "does not hold", "eight of ten, control never"),
        (yes, [True] * 9 + [False], "not settled here", "ten of ten, and the control nine of ten"),
        (yes, [True] * 8 + [False] * 2, "holds", "ten of ten, and the control eight of ten"),
        ([True] * 3, [False] * 3, "holds", "three of three starts, control never"),
        ([True] * 2 + [False], [False] * 3, "does not hold", "two of three starts, control never"),
        ([True] * 18 + [False] * 2, [False] * 20, "holds", "18 of 20 starts, control never"),
        ([True] * 20, [True] * 9 + [False] * 11, "holds", "20 of 20 starts, and the control nine of 20"),
    ]
    for met, control, right, name in cases:
        found = str(function(list(met), list(control))).strip().lower()
        if found == right:
            continue
        if found not in {case[2] for case in cases}:
            return False, f"Return 'holds', 'does not hold' or 'not settled here'; for {name} you return {found!r}."
        if "starts" in name:
            why = "Nine tenths of the starts that there are: take a share, not a count."
        elif ("seven" in name or "eight of ten, control never" in name) and found == "holds":
            why = "A majority is not enough: two or three starts of ten are evidence against the claim."
        elif right == "not settled here":
            why = "The control meets the criterion where the effect should be absent, so the criterion cannot tell."
        elif name.startswith("never"):
            why = "A claim whose criterion is not met does not hold, whatever the control does."
        elif "two of ten" in name or "control eight" in name:
            why = "The control fails below nine of ten; less, such as a chance hit or two, is allowed."
        else:
            why = "Nine of ten are enough."
        return False, f"For {name} the verdict is {right!r}, not {found!r}. {why}"
    return True, (
        "It is the rule of the book's board of claims. There a fourth verdict, 'holds in part', is for a narrower "
        "statement that was written down before."
    )


@question("4.6")
def count_or_content(matters, few, copies, more):
    known = ("count", "content", "neither")
    if matters not in known:
        return False, f"Choose one of {', '.join(known)}; you wrote {matters!r}."
    mean = [np.exp(np.mean(np.log(v))) for v in (few, copies, more)]
    by_count, by_content = mean[1] / mean[0], mean[2] / mean[0]
    seen = (
        f"Against 50 images: four copies of them {by_count:.2f} times the peak, 200 different images "
        f"{by_content:.2f} times."
    )
    right = "count" if by_count > 1.15 else "content" if by_content > 1.15 else "neither"
    if matters == right:
        return True, (
            f"{seen} A mean over points does not notice copies. From 50 to 200 images a law linear in n would give 4 "
            "times, √n 2 times."
        )
    if matters == "count":
        return (
            False,
            f"{seen} The copies have as many points as the 200 images. What is the same for them and for the 50?",
        )
    return False, f"{seen} Compare the geometric means of the three rows."


@question("4.7")
def nine_of_ten_by_chance(chance):
    if math.isclose(chance, 11 / 1024, rel_tol=5e-3):
        return True, (
            "About one in a hundred. Of fifty such claims one at least passes by chance in two cases of five. And "
            "three of three starts are met by chance once in eight."
        )
    if math.isclose(chance, 10 / 1024, rel_tol=5e-3):
        return False, "That is exactly nine. 'At least nine' has ten of ten as well."
    if math.isclose(chance, 11 / 1024, rel_tol=0.08):
        return False, "Give it to three digits: so roughly it may be the chance of exactly nine, too."
    if math.isclose(chance, 1 / 1024, rel_tol=1e-3):
        return False, "That is ten of ten. At least nine has ten more ways: which one of the ten fails?"
    if math.isclose(chance, 0.5**9, rel_tol=1e-3):
        return False, "That is nine given seeds. Any one of the ten may be the one that fails."
    return False, f"It is not {chance:.4g}. Of 1,024 outcomes of ten coins, how many have at least nine heads?"


@question("4.8")
def value_at_a_time(function):
    rng = np.random.default_rng(48)
    for eta, each, time in ((0.4, 5, 20.0), (0.1, 5, 20.1), (0.05, 2, 3.0), (0.4, 5, 21.8)):
        values = rng.standard_normal(120)
        entry = int(abs(eta * each * np.arange(120) - time).argmin())
        found, right = float(function(values.copy(), eta, each, time)), values[entry]
        if found == right:
            continue
        if round(time / eta) < 120 and found == values[round(time / eta)]:
            why = f"Entry k was measured at step {each}k, not at step k."
        elif round(time / each) < 120 and found == values[round(time / each)]:
            why = "The time of step t is ηt: with half the rate the same time takes twice the steps."
        elif found == values[int(time)]:
            why = "You read the time as an index."
        elif found in (values[int(time / (eta * each))], values[math.ceil(time / (eta * each))]):
            why = f"It is {time / (eta * each):.4g} spacings on: round, and do not cut off or go up."
        elif found not in values:
            why = "Return one of the values, the nearest, and nothing in between."
        else:
            why = "Entry k belongs to the time η · each · k."
        return (
            False,
            f"With η = {eta}, a value every {each} steps, time {time:g} is entry {entry}. {why}",
        )
    return True, "Runs with different rates are compared at the same time, not at the same step."
