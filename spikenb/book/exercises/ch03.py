"""Chapter 3: a tanh network at the edge of stability."""

import math

import numpy as np

from ... import data, networks
from ...curvature import top_eigenvalue
from ...descent import every, gd
from ...measure.spikes import find_spikes
from ...problem import Fit
from . import exercise


@exercise("3.1")
def same_steps(eta):
    if math.isclose(eta, 0.1, rel_tol=1e-6):
        return True, "Half the loss, twice the learning rate, half the threshold: the same steps."
    if math.isclose(eta, 0.025, rel_tol=1e-6):
        return False, "The other way round: with half the gradient, half the learning rate takes a quarter of the step."
    return (
        False,
        f"With η = {eta:g} a step is {eta / 2 / 0.05:.2g} times as long as before. What became of the gradient?",
    )


@exercise("3.2")
def conditional_shares(function):
    rng = np.random.default_rng(0)
    for _ in range(3):
        loss, lam = rng.uniform(size=41), rng.uniform(20, 60, 41)
        rises, sharp = np.diff(loss) > 0, lam[:-1] > 40
        right = (rises & sharp).sum() / sharp.sum(), (rises & sharp).sum() / rises.sum()
        ours = function(loss, lam, 0.05)
        if np.allclose(ours, right):
            continue
        if np.allclose(ours, right[::-1]):
            return False, "The two shares are in the other order: first the loss rises, given that λmax > 2/η."
        hint = "Divide by the count of what is given."
        if np.allclose(ours[0], (rises & (lam[1:] > 40)).sum() / (lam[1:] > 40).sum()):
            hint = "You took the sharpness at the end of each step; take it at the start, sharpness[:-1]."
        return False, f"On random data it returns {ours}, not {right}. {hint}"
    return True, "Two shares that one match rate hides: they differ whenever one event is much rarer than the other."


@exercise("3.3")
def early_warning(function):
    net, eta = networks.TwoLayer(20), 0.05
    problem = Fit(net, *data.grid("sin x + sin 4x", -2.7, 2.7, 40))
    for seed in (0, 3, 7):
        run = gd(problem, networks.normal(net, seed=seed), eta, 14_000, {"lam": every(10, top_eigenvalue)})
        spike = next(s for s in find_spikes(run.loss) if s.step > 500)
        seen = run["lam"].steps <= spike.end
        rings = function(run["lam"].steps[seen], run["lam"].values[seen], eta)
        early = spike.start - rings
        if not 50 <= early <= 1000:
            when = f"{early:.0f} epochs before" if early >= 0 else f"{-early:.0f} epochs after"
            return False, f"For seed {seed} it rings {when} the loss starts to rise. Which line does λmax cross first?"
    return True, "It rings a silent phase ahead of the loss. How often would it ring for nothing in setting C?"
