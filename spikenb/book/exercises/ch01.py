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
        growth = abs(1 - eta_lam)
        if not (hidden * growth**t >= 1 > hidden * growth ** (t - 1)):
            size = hidden * growth**t
            return False, (
                f"At ηλ = {eta_lam} from {hidden:g}, the size after your {t} steps is {size:.3g};"
                " it should be 1 or more, and below 1 a step before. Which factor does one step apply?"
            )
    return True, "The silence is a logarithm: a thousand times smaller costs only that many more steps again."


@exercise("1.3")
def momentum_threshold(function):
    for beta in (0.0, 0.5, 0.9):
        found, line = function(beta), 2 + 2 * beta
        if abs(found - line) > 0.05:
            side = "diverges" if found > line else "is still stable a little above"
            return (
                False,
                f"For β = {beta}, ηλ = {found:.2f} {side}. Did you run long enough, and on a fine enough list?",
            )
    return True, "The line is 2 + 2β. Chapter 3's dashed line moves with the optimizer."
