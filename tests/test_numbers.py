"""The numbers behind the figures: what was drawn is what the CSV says, from the kernel to the page."""

import csv
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from conftest import CHAPTERS, ROOT, visit, wait
from test_repository import make  # noqa: F401

from spikenb.book import numbers, plots

WITH_NUMBERS = [*CHAPTERS, ROOT / "book/why_numbers_differ.ipynb"]


@pytest.fixture
def figure():
    backend = matplotlib.get_backend()
    plt.switch_backend("agg")
    yield plt.figure(figsize=(4, 3))
    plt.close("all")
    plt.switch_backend(backend)


def rows(text):
    """{(panel, series): [(piece, x, y, value), …]}"""
    found = {}
    for panel, series, *values in list(csv.reader(io.StringIO(text)))[1:]:
        found.setdefault((panel, series), []).append(tuple(float(v) if v else None for v in values))
    return found


def test_lines_and_thresholds(figure):
    top, low = figure.subplots(2, sharex=True)
    top.semilogy([0, 1, 2], [1 / 3, np.nan, 1e-9], label="loss")
    low.plot([5.0, 7.0], [1, 2], "--o", color="#c8232c")
    plots.threshold(low, 40, "2/η = 40")
    low.axvspan(5.5, 6, color=plots.COLORS["spike"])
    top.set(title="start", ylabel="loss f")
    low.set(xlabel="step", ylabel="λmax")
    assert rows(numbers.table(figure)) == {
        ("1: start; loss f against step", "loss"): [
            (None, 0, 0.333333, None), (None, 1, None, None), (None, 2, 1e-9, None)
        ],
        ("2: λmax against step", "line 1 (-- o #c8232c)"): [(None, 5, 1, None), (None, 7, 2, None)],
        ("2: λmax against step", "line 2 (-- #1a1a1a)"): [(None, None, 40, None)],
        ("2: λmax against step", "band 1 (#f2e2b8)"): [(None, 5.5, None, None), (None, 6, None, None)],
    }  # fmt: skip


def test_points_bars_images_contours_and_error_bars(figure):
    ax = figure.subplots()
    dots = ax.scatter([1, 2], [3, 4], c=[0.5, 0.25])
    figure.colorbar(dots)
    ax.bar([1, 2], [5, 6], label="share")
    ax.errorbar([1, 2], [3, 4], [0.5, 1], fmt="^", label="drawn")
    ax.imshow([[1, 2, 3], [4, 5, 6]], extent=(0, 3, 0, 2))
    ax.contour([0, 1], [0, 2], [[0, 1], [0, 1]], levels=[0.25, 0.5])
    ax.fill_between([0, 1, 2, 3], 0, 1, where=[True, True, False, False], transform=ax.get_xaxis_transform())
    ax.annotate("here", (1, 1))
    found = {series: values for (_, series), values in rows(numbers.table(figure)).items()}
    assert found["points 1"] == [(None, 1, 3, 0.5), (None, 2, 4, 0.25)]
    assert found["share"] == [(None, 1, 5, None), (None, 2, 6, None)]
    assert found["drawn"][:2] == [(None, 1, 3, None), (None, 2, 4, None)]
    assert found["drawn"][2:] == [(1, 1, 2.5, None), (1, 1, 3.5, None), (2, 2, 3, None), (2, 2, 5, None)]
    assert found["image 1"][0] == (None, 0.5, 1.5, 1) and found["image 1"][-1] == (None, 2.5, 0.5, 6)
    assert {(x, level) for _, x, _, level in found["contours 1"]} == {(0.25, 0.25), (0.5, 0.5)}
    assert found["area 1"] == [(None, 0, None, None), (None, 1, None, None)]
    assert len(found) == 6  # nothing of the colour bar


def test_nothing_to_show_and_what_is_no_figure(figure):
    assert numbers.table(figure) == "" and numbers.packed(figure) is None
    with pytest.raises(TypeError, match="figure must be a matplotlib Figure, not str"):
        numbers.table("figure")


CELLS = [
    "import matplotlib.pyplot as plt\nfrom spikenb.book import plots\nplots.use_style()",
    "fig, ax = plt.subplots()\nax.plot([1, 2], [3, 4.123456789], label='loss')\nplt.show()",
    "print('no figure')",
]


def test_the_kernel_keeps_them(make, tmp_path, monkeypatch):  # noqa: F811
    """As `make.py notebooks` executes a chapter; nothing but the numbers is added."""
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    path = tmp_path / "x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    (tmp_path / "book").mkdir()
    subprocess.run(
        [sys.executable, "-c", make.EXECUTE, path], cwd=tmp_path, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    (text,) = numbers.stored(path).values()
    assert rows(text.decode()) == {("1", "loss"): [(None, 1, 3, None), (None, 2, 4.12346, None)]}
    outputs = [o for cell in nbformat.read(path, as_version=4).cells for o in cell.outputs]
    assert [list(o.get("data", {"text": 0})) for o in outputs] == [[numbers.MIME, "image/png", "text/plain"], ["text"]]
    assert not make.heavy(path.read_text()) and len(make.heavy(path.read_text(), most=0.001)) == 1


@pytest.mark.parametrize("path", WITH_NUMBERS, ids=lambda p: p.stem)
def test_each_figure_of_a_page_leads_to_its_numbers(built, path):
    page = built[0] / f"book/{path.stem}.html"
    soup = BeautifulSoup(page.read_text("utf-8"), "html.parser")
    stored = list(numbers.stored(path).values())
    figures = soup.select("article div.cell_output figure")
    assert len(figures) == len(stored) and stored
    for figure, text in zip(figures, stored, strict=True):
        link = figure.select_one("figcaption a.spike-numbers")
        linked = Path(page.parent, link["href"]).resolve()
        assert linked.read_bytes() == text and rows(text.decode())


def test_the_toys_numbers_are_those_of_its_run():
    from spikenb.descent import gd
    from spikenb.problem import Problem

    toy = Problem(lambda t: (50 * t[0] + 200) * t[1] ** 2 - t[0] + 5, 2, inside=lambda t: t[0] > -4)
    run = gd(toy, [0.5, 1e-5], 5e-3, 1000)
    first = next(iter(numbers.stored(ROOT / "book/02_slas_toy.ipynb").values()))
    loss = next(v for (panel, series), v in rows(first.decode()).items() if series.startswith("line 1"))
    assert [x for _, x, _, _ in loss] == list(range(1001))
    assert np.allclose([y for _, _, y, _ in loss], run.loss, rtol=1e-5)


def test_a_live_figure_gives_the_numbers_of_its_setting(browser, built):
    visit(browser, built, "02_slas_toy")
    name, text = browser.execute_script(
        """
        const live = document.querySelector(".spike-live");
        return [live.querySelector("button.spike-numbers").textContent, spikenbNumbers(live)];
        """
    )
    assert name == "The numbers of this setting (CSV)"
    head, *lines = csv.reader(io.StringIO(text))
    controls = "Object.fromEntries([...live.querySelectorAll('input')].map(i => [i.name, +i.value]))"
    result = browser.execute_script(
        f"const live = document.querySelector('.spike-live'); return live.compute({controls})"
    )
    assert "f" in head and "say" not in head
    for name, column in zip(head, zip(*lines, strict=True), strict=True):
        assert np.allclose([float(v) for v in column if v], [v for v in result[name] if v is not None], rtol=1e-5)


def test_the_front_pages_network_gives_what_it_drew(browser, built):
    visit(browser, built, "index")
    wait(browser, "return document.getElementById('front').run().epoch > 500")
    text, each, columns = browser.execute_script(
        """
        const front = document.getElementById("front"), {each, columns} = front.run().history;
        return [spikenbNumbers(front), each, columns];
        """
    )
    head, *lines = csv.reader(io.StringIO(text))
    assert head == ["epoch", "lowest loss", "highest loss", "sharpness", "2/eta"]
    assert len(lines) == len(columns) > 20
    for k, (line, column) in enumerate(zip(lines, columns, strict=True)):
        epoch, low, high, *_ = (float(v) if v else None for v in line)
        assert epoch == k * each and np.allclose([low, high], [column["low"], column["high"]], rtol=1e-5)


def test_a_click_saves_the_file(browser, built, tmp_path):
    visit(browser, built, "02_slas_toy")
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", dict(behavior="allow", downloadPath=str(tmp_path)))
    for selector in ("button.spike-numbers", "figcaption a.spike-numbers"):
        browser.execute_script(f"document.querySelector('{selector}').click()")
    wanted = {"live-slas.csv", "02_slas_toy-1.csv"}
    end = time.monotonic() + 20
    while {path.name for path in tmp_path.iterdir()} != wanted:
        assert time.monotonic() < end, list(tmp_path.iterdir())
        time.sleep(0.1)
    assert browser.current_url.endswith("02_slas_toy.html")
