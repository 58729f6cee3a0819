"""Chapter 14: the edge of stability in n_c - 1 directions."""

import math

import numpy as np

from . import exercise


@exercise("14.1")
def sum_of_the_outliers(total):
    if math.isclose(total, 18_000, rel_tol=1e-3):
        return True, "Nine directions at 2/η each. The rest of the spectrum adds to the trace, not to this sum."
    if math.isclose(total, 20_000, rel_tol=1e-3):
        return False, "You counted ten directions. With ten classes the source finds nine, n_c - 1, at the edge."
    return (
        False,
        "At the edge each curvature is 2/η. How large is that at η = 0.001, and how many directions are there?",
    )


@exercise("14.2")
def change_of_a_quadratic(function):
    rng = np.random.default_rng(14)
    for eta in (0.1, 0.02):
        lam, x = rng.uniform(1, 30, 4), rng.standard_normal(4)
        d = lam * x
        before, after = (float((lam * z**2).sum() / 2) for z in (x, x - eta * d))
        found = float(function(eta, lam.copy(), d.copy()))
        if not math.isclose(found, after - before, rel_tol=1e-9, abs_tol=1e-12):
            return False, (
                f"On ½Σλx² with η = {eta}, λ = {lam.round(1).tolist()} and d = {d.round(1).tolist()} the step changes "
                f"the loss by {after - before:.3f}; you say {found:.3f}. First order: -η d². Second: η² λ d²/2."
            )
    return True, "At ηλ = 2 the two terms cancel: such a direction costs nothing and brings nothing."


@exercise("14.3")
def lag_of_the_onset(function):
    steps = [0, 10, 20, 30, 40, 50, 60]
    cases = {
        "a run": ([0.1, 0.4, 0.9, 1.1, 1.2, 1.3, 0.9], [0.1, 0.0, 0.0, 0.0, 0.2, 0.9, 0.8], 20),
        "a run whose share is high at the start": (
            [0.1, 0.4, 1.0, 1.1, 1.2, 1.3, 0.9],
            [0.7, 0.6, 0.0, 0.0, 0.0, 0.0, 0.8],
            40,
        ),
        "a run that is concentrated as it crosses": (
            [0.5, 1.2, 1.1, 0.9, 1, 1, 1],
            [0.1, 0.6, 0.9, 0.9, 0.9, 0.9, 0.9],
            0,
        ),
        "a run that never crosses": (
            [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7],
            [0.6, 0.1, 0.0, 0.0, 0.0, 0.6, 0.6],
            math.nan,
        ),
        "a run that crosses and stays spread": (
            [0.5, 1.1, 1.2, 1.1, 1, 1, 1],
            [0.6, 0.1, 0.0, 0.1, 0.2, 0.1, 0.2],
            math.nan,
        ),
    }
    for name, (rho, share, lag) in cases.items():
        found = float(function(np.array(steps), np.array(rho), np.array(share)))
        if not (found == lag or (math.isnan(found) and math.isnan(lag))):
            return False, f"For {name}, with ρ_1 = {rho} and shares {share}, the lag is {lag}, and you return {found}."
    return True, "The trap is the start, where the gradient lies in the top directions for other reasons."
