"""Chapter 12: catapults teach features."""

import math

import numpy as np

from ... import agop, data, networks, tangent
from ...descent import every, gd
from ...problem import Fit
from . import exercise


@exercise("12.1")
def with_the_truth(cosine):
    if math.isclose(cosine, 0.7, rel_tol=1e-3):
        return True, "Two witnesses who agree by half can each be right by seven tenths."
    if math.isclose(cosine, 0.49, rel_tol=1e-3):
        return False, "That is their alignment with each other. Both have an error of their own; the truth has none."
    return (
        False,
        "cos(a, b) = |t|²/(|t|² + |u|²) as t, u, v are orthogonal. Divide ⟨a, t⟩ = |t|² by |a||t|, and compare.",
    )


@exercise("12.2")
def read_a_run(function):
    cases = {
        "a plain run": ([3.0, 2.0, 1.0, 1.5], [2.0, 1.0, 0.9, 0.8], [0.1, 0.4, 0.6, 0.7], 2),
        "a run that diverges": ([3.0, 1.0, np.inf, np.nan], [2.0, 1.0, np.inf, np.nan], [0.1, 0.3, 0.5, np.nan], 1),
        "a run with one bad record": ([np.nan, 2.0, 1.0], [np.nan, 0.5, 0.7], [0.9, 0.6, 0.4], 2),
    }
    for name, (valid, test, align, at) in cases.items():
        found = tuple(float(v) for v in function(list(valid), list(test), list(align)))
        if found != (test[at], align[at]):
            return False, (
                f"For {name} with validation losses {valid} you return {found}; the least finite one is entry {at} "
                "(counted from 0). Only the validation losses choose."
            )
    return True, "The test set has had no say. How much would it change the table if it had?"


@exercise("12.3")
def one_throw(function):
    target, d = data.LOW_RANK["rank-2"], 20
    x, y = (part.float() for part in data.gaussian(target, 200, d, seed=3))
    net = networks.fcn(d, 256, 2)
    fit, theta, truth = Fit(net, x, y), networks.ntk(net, seed=3).float(), agop.expected(target, d)

    def critical(fit, theta):
        return tangent.critical_learning_rate(fit, tangent.kernel(fit, theta))

    def aligned(fit, theta):
        G = agop.agop(net, theta, x)
        return agop.alignment(G, truth) if G.trace else 0.0

    def train(schedule):
        return gd(fit, theta, schedule, 250, record={"align": every(250, aligned)})

    first = critical(fit, theta)
    plain, run = train(0.5 * first), train(function(critical))
    if run.stopped:
        return False, f"The run {run.stopped}. Is the first rate too high? 1.3 to 1.5 times critical will do."
    if not run.lr[0] > first:
        return False, f"The first rate is {run.lr[0] / first:.2f} times the critical one: nothing is thrown."
    if not run.loss.max() > 1.2 * run.loss[0]:
        return (
            False,
            f"The loss goes up to {run.loss.max() / run.loss[0]:.2f} times the first only. Let the throw build up.",
        )
    changes = int((np.diff(run.lr) != 0).sum())
    if changes != 1:
        return False, f"The rate changes {changes} times. It should once: when the loss is back below where it began."
    before, after = plain["align"].values[-1], run["align"].values[-1]
    if not after > before:
        return (
            False,
            f"Alignment {after:.2f} with the throw and {before:.2f} without. Is the later rate below critical?",
        )
    return True, f"Alignment {after:.2f} with one throw, {before:.2f} without, after as many steps."
