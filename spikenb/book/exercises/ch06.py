"""Chapter 6: condensation."""

import numpy as np

from ... import data, networks
from ...descent import gd
from ...measure import condensation
from ...problem import Fit
from . import exercise

ENDS = (-5 / 3, 5 / 3)


@exercise("6.1")
def halved(factors):
    near, orientations, participation = map(float, factors)
    if (near, orientations, participation) == (1, 1, 2):
        return True, "The first two see how amplitude lies over the angle; only the third counts neurons."
    if participation != 2:
        return (
            False,
            f"Participation by {participation:g}? Take k equal neurons: it is k. Into how many do you cut them?",
        )
    return False, "Participation doubles, yes. But how much of the amplitude lies at each angle, before and after?"


@exercise("6.2")
def smaller_net(merged):
    rng, x = np.random.default_rng(0), np.linspace(*ENDS, 301)

    def output(a, w, b):
        return np.maximum(np.multiply.outer(x, w) + b, 0) @ a

    for k, negative in ((12, False), (7, True)):
        groups = 2 * np.pi * ((np.arange(k) + rng.uniform(0.2, 0.8, k)) / k - 0.5)  # one orientation in each bin
        angle, size, a = np.repeat(groups, 5), rng.uniform(0.1, 1, 5 * k), rng.uniform(0.1, 1, 5 * k)
        a *= -1 if negative else 1
        net = a, size * np.cos(angle), size * np.sin(angle)
        small = tuple(np.asarray(part, dtype=float) for part in merged(*net, k))
        if len(small) != 3 or any(part.shape != small[0].shape or part.ndim != 1 for part in small):
            return False, "Return three arrays of one length, (a, w, b) of the small net."
        if len(small[0]) > k:
            return False, f"{len(small[0])} neurons for {k} bins; each bin gives one neuron at most."
        error = np.abs(output(*small) - output(*net)).max() / np.abs(output(*net)).max()
        if not error < 1e-9:
            which = "negative" if negative else "positive"
            return False, (
                f"60 or 35 neurons on {k} orientations, all a {which}: the small net's output is off by {error:.0%}. "
                "Neurons of one orientation add up exactly; look at the sign, and at which bin an angle falls in."
            )
    return True, "Exact for a condensed net: the width a net was built with says little about its size."


@exercise("6.3")
def spike_on_demand(schedule):
    schedule = [(float(eta), int(steps)) for eta, steps in schedule]
    total, large = sum(n for _, n in schedule), sum(n for eta, n in schedule if eta > 0.01)
    if total > 4000 or large > 40:
        return (
            False,
            f"It takes {total} steps, {large} of them above 0.01; allowed are 4000 and 40. Where is the spike over?",
        )
    net = networks.TwoLayer(500, "relu")
    problem = Fit(net, *data.grid("two relus", *ENDS, 6))
    for seed in (0, 1):
        theta = networks.normal(net, 0.4, seed)
        for eta, steps in schedule:
            run = gd(problem, theta, eta, steps)
            if run.stopped:
                return False, f"For seed {seed} training at η = {eta:g} {run.stopped}. Spike, but not as violently."
            theta = run.theta
        a, w, b, _ = net.split(theta)
        k = condensation.measures(condensation.neurons(a, w, b, alive_on=ENDS))["orientations"]
        loss = problem.loss(theta).item()
        if not k < 12:
            return (
                False,
                f"For seed {seed} {k:.1f} effective orientations are left. Did the loss spike? 2/λmax is about 0.02.",
            )
        if not loss < 0.01:
            return (
                False,
                f"For seed {seed} the loss is still {loss:.2g}. The spike is over; what does the descent need now?",
            )
    return True, f"Condensed by {large} large steps of {total}. The spike did it, not the training."
