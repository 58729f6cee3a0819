"""What the front page's script starts from: the data and ten starts of chapter 3's setting B, and its still picture.

    python -m spikenb.book.front assets/static

writes both files into a folder. The numbers in the page are Python's to the last digit.
"""

import io
import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

from .. import _checks, data, networks
from ..curvature import top_eigenvalue
from ..descent import every, gd
from ..measure.spikes import find_spikes
from ..problem import Fit
from . import plots

ETA = 0.05
SEEDS = range(10)


def problem():
    """Chapter 3's setting B: twenty tanh neurons, sin x + sin 4x at 40 points of [-2.7, 2.7], (1/n)Σr²."""
    return Fit(networks.TwoLayer(20, "tanh"), *data.grid("sin x + sin 4x", -2.7, 2.7, 40), loss="mse")


def start(seed):
    """θ₀ of a seed, float64, shape (61,): N(0, 1/m), as in chapter 3."""
    return networks.normal(problem().model, gamma=1, seed=seed)


def script():
    """The data and the starts as a JavaScript file, a `const` with one JSON object; a page opened from a folder can
    load it, as it cannot a .json."""
    fit = problem()
    values = {
        "width": fit.model.width,
        "prefactor": fit.prefactor,
        "eta": ETA,
        "x": fit.x.tolist(),
        "y": fit.y.tolist(),
        "starts": [start(seed).tolist() for seed in SEEDS],
    }
    return f"const spikenbStart = {json.dumps(values, separators=(',', ':'))};\n"


def picture(path, seed=0, epochs=11_000):
    """Write the still picture, a PNG: one run's loss, λmax against 2/η, and the fit at the largest spike's peak."""
    fit = problem()
    run = gd(fit, start(seed), ETA, _checks.count("epochs", epochs), record={"λmax": every(10, top_eigenvalue)})
    spikes = [s for s in find_spikes(run.loss) if s.step > 500]
    if not spikes:
        raise ValueError(f"seed {seed} has no spike within {epochs} epochs; choose another")
    peak = max(spikes, key=lambda s: s.ratio).step
    at_peak = gd(fit, start(seed), ETA, peak).theta
    with plt.rc_context():
        plots.use_style()
        figure, (loss, top, fitted) = plt.subplots(1, 3, figsize=(9, 2.7), layout="constrained")
        loss.semilogy(run.loss, color=plots.COLORS["loss"], lw=1)
        loss.set(xlabel="epoch", ylabel="loss")
        top.plot(*run["λmax"], color=plots.COLORS["sharpness"], lw=1)
        top.axhline(2 / ETA, color=plots.COLORS["threshold"], ls="--", lw=1.2)
        top.text(0, 2 / ETA + 1, f"2/η = {2 / ETA:.0f}")
        top.set(xlabel="epoch", ylabel="λmax", ylim=(0, 60))
        fitted.plot(fit.x, fit.y, "o", ms=3, color="gray")
        fitted.plot(fit.x, fit.outputs(at_peak), color=plots.COLORS["loss"], lw=1.2)
        fitted.set(xlabel="x", ylabel="the fit at the peak")
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=100)
        plt.close(figure)
    Image.open(buffer).convert("RGB").quantize(24).save(path, format="PNG", optimize=True)


def main():
    folder = Path(sys.argv[1])
    (folder / "front-start.js").write_text(script(), encoding="utf-8")
    picture(folder / "front.png")


if __name__ == "__main__":
    main()
