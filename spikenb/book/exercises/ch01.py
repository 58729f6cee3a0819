"""Chapter 1: quadratic stability and linear dynamics."""

import math

from . import exercise


@exercise("1.1")
def factor_of_minus_a_half(eta):
    factor = 1 - 50 * eta
    if math.isclose(factor, -0.5, rel_tol=1e-6):
        return True, "One step of η = 0.03 overshoots by half the distance."
    if math.isclose(factor, 0.5, rel_tol=1e-6):
        return False, "This η halves θ without changing its sign. What makes the step overshoot?"
    return False, f"With this η one step multiplies θ by {factor:.3g}. Solve 1 - ηλ = -1/2."


@exercise("1.2")
def steps_until_seen(function):
    for eta_lam, hidden in [(2.2, 1e-6), (2.5, 1e-3), (3.0, 0.3), (2.1, 1e-9)]:
        t = function(eta_lam, hidden)
        if t is None:
            return False, "Your function returns nothing: it needs a return."
        growth, first = eta_lam - 1, math.ceil(math.log(1 / hidden) / math.log(eta_lam - 1))
        if t != first:
            size = hidden * growth**t
            why = "Round up to a whole step." if abs(t - first) < 1.01 else "Which factor does one step apply?"
            return False, (
                f"At ηλ = {eta_lam} from {hidden:g}, the size after your {t} steps is {size:.4g}; the first step"
                f" with a size of 1 or more is {first}. {why}"
            )
    return True, "The silence is a logarithm: a thousand times smaller costs only that many more steps again."


@exercise("1.3")
def momentum_threshold(function):
    for beta in (0.0, 0.5, 0.9):
        found, line = function(beta), 2 + 2 * beta
        if abs(found - line) > 0.05:
            grows = "is unstable" if found > line else "is not yet the largest: a little above is stable too"
            return False, (
                f"For β = {beta}, ηλ = {found:.2f} {grows}. Simulate both updates, for a list of ηλ finer than 0.05"
                " that goes beyond 2, and many steps."
            )
    return True, "The line is 2 + 2β: what plays the part of 2/η depends on the optimizer."
