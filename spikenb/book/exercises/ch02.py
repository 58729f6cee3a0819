"""Chapter 2: the SLAS toy."""

import math

from . import exercise


@exercise("2.1")
def where_the_valley_is_too_sharp(x):
    if math.isclose(x, 1.0, abs_tol=1e-6):
        return True, "A smaller learning rate lets x travel farther before the valley is too sharp."
    if math.isclose(x, 0.0, abs_tol=1e-6):
        return False, "That is the crossing of η = 0.005. What is 2/η now?"
    return False, f"At your x, λmax on the floor is {100 * (x + 4):.0f}, and 2/η is 500."


@exercise("2.2")
def turning_level(function):
    for a, b, c, d in [(50, 200, 1, 5), (50, 200, 2, 5), (20, 100, 1, 3), (7, 3, 2, -1)]:
        level, right = function(a, b, c, d), b * c / a + d
        if not math.isclose(level, right, rel_tol=1e-6):
            return False, (
                f"For a, b, c, d = {a}, {b}, {c}, {d} your level is {level:.4g}. At which y² is ∂f/∂x zero?"
                " Put that y² into f, and see what becomes of x."
            )
    return True, "x drops out of f at that y²: a whole line of the plane is one level of the loss."


@exercise("2.3")
def third_spike(function):
    step, peak = function()
    if not 2280 <= step <= 2290:
        return False, (
            f"Your peak is at step {step}; 40 digits put it at 2,284. Do x and log|y| both use the values from"
            " before the step, and is the step counted from the start of the run?"
        )
    if not math.isclose(peak, 13151, rel_tol=0.05):
        return False, (
            f"A peak of {peak:.0f} at step {step} is what plain doubles give or close to it; 40 digits give"
            " 13,151 at step 2,284. Is y² computed from log|y|, and never y itself?"
        )
    return True, "A change of variable did what 40 digits did: nothing underflows in log|y|."
