"""Chapter 4: frequency, why the loss falls so fast."""

import math
from functools import cache

import numpy as np

from ... import data, networks
from ...descent import gd
from ...measure.fourier import lfp
from ...measure.spikes import find_spikes
from ...problem import Fit
from . import exercise


@exercise("4.1")
def by_hand(share):
    if math.isclose(share, 0.9, abs_tol=1e-3):
        return True, "Three times the amplitude is nine times the power, and the 2 does not count."
    if math.isclose(share, 0.75, abs_tol=1e-3):
        return False, "That is the share of the amplitudes. Power goes with their squares."
    if math.isclose(share, 17 / 18, abs_tol=2e-3):
        return False, "You counted the mean: the power of the constant 2 is 4, that of 3 sin x is 9/2. Leave k = 0 out."
    return False, f"{share:.3g} is not it. Which powers have sin x and cos 3x, and which of them are at k ≤ 1?"


@exercise("4.2")
def proportion(function):
    rng = np.random.default_rng(0)
    for n in (40, 41):
        f = rng.normal(size=n) + 2
        for K in (1, 2, 5):
            share, right = function(f, K), float(lfp(f, K))
            if np.allclose(share, right, atol=1e-6):
                continue
            powers = np.abs(np.fft.rfft(f)) ** 2
            slips = {
                "You count k = 0, the mean; both sums start at 1.": lfp(f, K, mean=True),
                "You count k = 0, the mean; both sums start at 1. ": powers[: K + 1].sum() / powers.sum(),
                "Frequency K itself belongs to the low part.": lfp(f, K - 1),
                "Power is the square of |f̂|.": np.sqrt(powers[1 : K + 1]).sum() / np.sqrt(powers[1:]).sum(),
            }
            if n % 2 == 0:
                slips["At an even n the last frequency of `rfft` stands for one wave, the others for two."] = (
                    powers[1 : K + 1].sum() / powers[1:].sum()
                )
            hint = next((h for h, v in slips.items() if np.allclose(share, v, atol=1e-6)), "Try it on sin x.")
            return False, f"For {n} random values and K = {K} it returns {share}, not {right:.4f}. {hint.strip()}"
    return True, "The mean square splits over the frequencies without a rest; that is what makes a proportion of it."


@cache
def _after_a_spike():
    """The problem of the chapter, and θ_end of the largest spike of seed 0."""
    net = networks.TwoLayer(20)
    problem = Fit(net, *data.grid("sin x + sin 4x", -np.pi, np.pi, 40))
    run = gd(problem, networks.normal(net), 0.05, 80_000, keep=100)
    spike = max((s for s in find_spikes(run.loss) if s.step > 500), key=lambda s: s.ratio)
    near = gd(problem, run.checkpoints.values[spike.end // 100], 0.05, 100, keep=1)
    return problem, near.checkpoints.values[spike.end % 100]


@exercise("4.3")
def fast_but_not_low(function):
    problem, theta = _after_a_spike()
    d = np.asarray(function(problem.jacobian(theta).numpy()), dtype=float)
    if d.shape != (40,) or not np.isfinite(d).all() or not d.any():
        return False, f"Return 40 finite numbers that are not all zero, one a data point; you returned shape {d.shape}."
    share = float(lfp(d[:-1], 1, mean=True))
    d = d * np.sqrt(0.1 / np.mean(d**2))
    loss = gd(Fit(problem.model, problem.x, problem.outputs(theta).numpy() + d), theta, 0.05, 2000).loss
    under = np.flatnonzero(loss <= 0.1 * loss[0])
    epochs = f"{under[0]} epochs" if len(under) else "more than 2,000 epochs"
    said = f"LFP(1) with the mean counted is {share:.2f}, and the net needs {epochs}."
    if share > 0.1:
        return False, f"{said} Not low enough: the mean and one wave a period must go. Look at other directions."
    if not len(under) or under[0] > 10:
        return False, f"{said} Too slow. Along which directions of output space is a difference repaired at what rate?"
    return True, f"{said} Fast means a large eigenvalue of JJᵀ; low frequency is how most such directions look."
