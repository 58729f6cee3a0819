"""Nothing in the package changes the process's floating-point mode; the toy's three endings."""

import subprocess
import sys

import mpmath
import numpy as np
import pytest
import torch

from spikenb.descent import gd
from spikenb.problem import Problem

EVERY_PUBLIC_PART = """
import sys, threading
tiny = lambda: sys.float_info.min / 2
assert tiny() != 0
import numpy, spikenb
from spikenb import curvature, data, descent, networks, problem
from spikenb.measure import landscape, spikes
from spikenb.book import claims, exercises, plots, sliders
net = networks.TwoLayer(3)
fit = problem.Fit(net, *data.grid("sin x + sin 4x", -1, 1, 5))
run = descent.gd(fit, networks.normal(net), 0.01, 20, record={"l": curvature.top_eigenvalue}, keep=1)
landscape.pca_plane(run.checkpoints.values)
spikes.find_spikes(run.loss)
exercises.check("1.1", 0.03)
plots.use_style()
claims.table()
assert tiny() != 0, "subnormals are flushed to zero now"
seen = []
thread = threading.Thread(target=lambda: seen.append(tiny()))
thread.start(); thread.join()
assert seen[0] != 0, "subnormals are flushed to zero in new threads now"
print("untouched")
"""


def test_nothing_changes_the_floating_point_mode():
    done = subprocess.run([sys.executable, "-c", EVERY_PUBLIC_PART], capture_output=True, text=True)
    assert "untouched" in done.stdout, done.stderr


def test_the_probe_sees_a_flushed_mode():
    """The control of the test above: with the mode set, its assertion fails."""
    flushed = "import torch; assert torch.set_flush_denormal(True)\n" + EVERY_PUBLIC_PART
    done = subprocess.run([sys.executable, "-c", flushed], capture_output=True, text=True)
    assert done.returncode != 0 and "AssertionError" in done.stderr


slas = Problem(lambda t: (50 * t[0] + 200) * t[1] ** 2 - t[0] + 5, 2, inside=lambda t: t[0] > -4)


@pytest.fixture
def flush():
    was = sys.float_info.min / 2 == 0
    yield torch.set_flush_denormal
    torch.set_flush_denormal(was)


@pytest.mark.parametrize("flushed", [False, True])
def test_endings_of_the_packages_own_descent(flush, flushed):
    if not flush(flushed):
        pytest.skip("this processor has one floating-point mode only")
    run = gd(slas, [0.5, 1e-5], 5e-3, 2400)
    if flushed:
        assert run.stopped is None and run.loss[1000:].max() < 9 and run.theta[1] == 0
    else:
        assert "left the domain" in run.stopped and 2280 <= len(run.loss) <= 2290
        assert run.loss[2270:].max() > 1000


def test_ending_in_forty_digits():
    with mpmath.workdps(40):
        x, y, eta = map(mpmath.mpf, ("0.5", "1e-5", "0.005"))
        losses = []
        while x > -4:
            losses.append(float((50 * x + 200) * y * y - x + 5))
            x, y = x - eta * (50 * y * y - 1), y - eta * 2 * (50 * x + 200) * y
    assert len(losses) == 2286 and np.argmax(losses) == 2284
    assert max(losses) == pytest.approx(13151, rel=1e-3)
