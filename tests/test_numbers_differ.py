"""The page on why numbers differ: a notebook like the chapters', without their bones; and that its reasons are real."""

import re
import time

import jupytext
import nbformat
import pytest
from conftest import ROOT, code_cells

PAGE = ROOT / "book/why_numbers_differ.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(PAGE, as_version=4)


@pytest.fixture(scope="module")
def said(notebook):
    """All that its cells printed."""
    return "".join(o.text for c in code_cells(notebook) for o in c.outputs if o.get("name") == "stdout")


def test_the_pair_agrees(notebook):
    text = jupytext.read(PAGE.with_suffix(".md"))
    ours = [(c.cell_type, c.source, dict(c.metadata)) for c in notebook.cells]
    assert ours == [(c.cell_type, c.source, dict(c.metadata)) for c in text.cells]


def test_it_ran_in_order_without_errors(notebook):
    code = code_cells(notebook)
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    assert not [o for c in code for o in c.outputs if o.output_type == "error" or o.get("name") == "stderr"]


def test_its_code_is_short_and_its_figure_told(notebook):
    for cell in code_cells(notebook):
        if "hide-input" not in cell.metadata.get("tags", ()):
            lines = cell.source.splitlines()
            assert len(lines) <= 18 and max(map(len, lines)) <= 74, cell.source
        if any("image/png" in o.get("data", {}) for o in cell.outputs):
            assert len(cell.metadata["mystnb"]["image"]["alt"]) > 60


def test_each_reason_shows(said):
    """What is stored is what the prose says of it."""
    assert int(re.search(r"distinct gradients: (\d)", said)[1]) > 1
    epochs = re.search(r"epoch of the first spike \[(.*)\]", said)[1].split(", ")
    assert len(set(epochs)) > 1
    assert all(float(share) > 1 for share in re.findall(r"differs from math in ([\d.]+)%", said))
    assert len(set(re.findall(r"\d threads: (\S+)", said))) > 1
    errors = [float(e) for e in re.findall(r"error of a matrix product (\S+)", said)]
    assert errors == sorted(errors) and 1e-8 < errors[0] < 1e-6 and 1e-4 < errors[1]
    single, double = re.findall(r"^(?:single|double): .*peak/before ([\d.]+)", said, re.M)
    assert float(single) < float(double)
    assert re.search(r"by IEEE: +left the domain", said) and re.search(r"flushed: +no third spike", said)


def test_what_stays_the_same_is_compared(notebook):
    checked = [c for c in code_cells(notebook) if "nbval-check-output" in c.metadata.get("tags", ())]
    assert len(checked) == 3
    printed = "".join(o.text for c in checked for o in c.outputs)
    assert "10 of 10 runs" in printed and printed.count("True") == 2


def test_it_is_quick_and_leaves_the_mode_alone(notebook):
    """Its cells in one process: within twice its budget, and threads and floating-point mode as they were."""
    import sys

    import matplotlib
    import torch

    matplotlib.use("agg")
    threads, space = torch.get_num_threads(), {}
    begin = time.process_time()
    for cell in code_cells(notebook):
        exec(cell.source, space)
    assert time.process_time() - begin < 40
    assert torch.get_num_threads() == threads and sys.float_info.min / 2 != 0


def test_its_badge_and_its_set_up_are_the_chapters(notebook):
    address = "https://colab.research.google.com/github/spikenb/spikenb/blob/main/book/why_numbers_differ.ipynb"
    assert address in "\n".join(c.source for c in notebook.cells)
    chapter = nbformat.read(ROOT / "book/03_tanh_edge_of_stability.ipynb", as_version=4)
    ours, theirs = (next(c.source for c in n.cells if c.cell_type == "code") for n in (notebook, chapter))
    assert ours.split("\n\n")[:2] == theirs.split("\n\n")[:2]
