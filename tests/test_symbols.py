"""The glossary's table of symbols: every row is whole, and what stands as code is code."""

import re
from importlib import import_module

import numpy as np
import pytest
from conftest import ROOT

from spikenb import curvature, data, networks, tangent
from spikenb.descent import gd
from spikenb.problem import Fit

TEXT = (ROOT / "book/glossary.md").read_text("utf-8")
TABLE = re.search(r"```\{table\}\n:class: spike-symbols\n\n(.*?)\n```", TEXT, re.S).group(1)
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.splitlines()]
NAMES = [name for row in ROWS[2:] for name in re.findall(r"`([^`]+)`", row[1])]


def test_every_row_has_every_source():
    assert ROWS[0] == ["here", "in code", "*Loss Spike*", "*Catapults in SGD*", "its slides", "*Singularity*"]
    quantities = [row[0] for row in ROWS[2:]]
    assert len(quantities) == len(set(quantities)) >= 30
    for row in ROWS[2:]:
        assert len(row) == 6 and all(row), row
        assert any(cell != "–" for cell in row[2:]), row


@pytest.fixture(scope="module")
def run():
    fit = Fit(networks.TwoLayer(3), *data.grid("sin x + sin 4x", -1, 1, 5))
    return fit, gd(fit, networks.normal(fit.model), 0.01, 2)


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_as_code_is_code(run, name):
    fit, done = run
    owner, _, part = name.partition(".")
    if owner in ("fit", "run", "net"):
        assert hasattr({"fit": fit, "run": done, "net": fit.model}[owner], part)
    elif part:
        module = "spikenb.measure.fourier" if owner == "fourier" else f"spikenb.{owner}"
        assert callable(getattr(import_module(module), part))
    elif name == "len(fit)":
        assert len(fit) == 5
    else:  # an argument's name that all chapters use
        chapters = "".join(p.read_text("utf-8") for p in (ROOT / "book").glob("0[1-9]*.md"))
        package = "".join(p.read_text("utf-8") for p in (ROOT / "spikenb").glob("*.py"))
        assert re.search(rf"\b{name}\b", chapters + package)


def test_the_two_kinds_of_eigenvalues_differ_as_the_table_says():
    """λ of the Hessian is about 2/n times λ of the kernel, exactly so for a linear model."""
    x = np.linspace(-1, 1, 7)
    fit = Fit(lambda theta, x: theta[0] * x + theta[1], x, x**2, dim=2)
    theta = np.array([0.3, -0.2])
    hessian = curvature.top_eigenvalue(fit, theta)
    assert hessian == pytest.approx(2 / len(fit) * tangent.norm(fit, theta), rel=1e-3)
    assert tangent.critical_learning_rate(fit, tangent.kernel(fit, theta)) == pytest.approx(2 / hessian, rel=1e-3)
