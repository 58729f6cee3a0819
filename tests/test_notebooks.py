"""The form of the chapters: pairs agree, outputs are those of one run, figures and numbers are accounted for."""

import json
import re
import shutil
import subprocess
import sys

import jupytext
import nbformat
import pytest
from conftest import CHAPTERS, ROOT, code_cells

from spikenb.book import claims


def test_every_text_has_its_notebook():
    assert [p.with_suffix(".md") for p in CHAPTERS] == sorted((ROOT / "book").glob("[0-9]*.md"))


def test_the_pair_agrees(chapter, notebook):
    text = jupytext.read(chapter.with_suffix(".md"))
    ours = [(c.cell_type, c.source, dict(c.metadata)) for c in notebook.cells]
    theirs = [(c.cell_type, c.source, dict(c.metadata)) for c in text.cells]
    assert ours == theirs, "edit the .md, then run: python3 make.py notebooks " + chapter.with_suffix(".md").name
    assert dict(notebook.metadata) == {"kernelspec": dict(text.metadata["kernelspec"])}
    assert notebook.metadata.kernelspec.name == "python3"


def test_it_ran_in_order_without_errors(notebook):
    code = code_cells(notebook)
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    assert not [o for c in code for o in c.outputs if o.output_type == "error"]
    assert not [o for c in code for o in c.outputs if o.get("name") == "stderr"]


def test_figures_have_alt_text_and_captions(notebook):
    figures = [c for c in code_cells(notebook) if any("image/png" in o.get("data", {}) for o in c.outputs)]
    assert figures
    for cell in figures:
        meta = cell.metadata["mystnb"]
        assert len(meta["image"]["alt"]) > 60 and len(meta["figure"]["caption"]) > 40
        assert sum("image/png" in o.get("data", {}) for o in cell.outputs) == 1


def test_visible_code_is_short(notebook):
    for cell in code_cells(notebook):
        if "hide-input" not in cell.metadata.get("tags", ()):
            lines = cell.source.splitlines()
            assert len(lines) <= 18 and max(map(len, lines)) <= 74, cell.source


def test_the_bones(chapter, notebook):
    first = notebook.cells[0].source
    assert re.match(r"# \d+ · .+\n\n[^\n]+$", first), "H1 and one sentence"
    headings = [
        h for c in notebook.cells if c.cell_type == "markdown" for h in re.findall(r"^## (.+)$", c.source, re.M)
    ]
    for heading in ("Predict", "Claims checked", "Exercises", "What to take away"):
        assert heading in headings
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    for part in ("**You will learn**", "**Needs**", "**Run time**", "**Working time**", "**References.**"):
        assert part in text
    (parameters,) = [c for c in code_cells(notebook) if "parameters" in c.metadata.get("tags", ())]
    assert re.findall(r"^(\w+) =", parameters.source, re.M) == ["SEED", "SCALE", "DEVICE"]
    assert any("live-" in o.get("data", {}).get("text/html", "") for c in code_cells(notebook) for o in c.outputs)
    assert any("interact" in c.source for c in code_cells(notebook))


def test_all_chapters_set_up_alike():
    starts = {
        code_cells(nbformat.read(p, as_version=4))[0].source.split("\n\nimport ")[0].split("\n\nfrom ")[0]
        for p in CHAPTERS
    }
    assert len(starts) == 1


def test_weight(chapter):
    assert chapter.stat().st_size < 2e6


def numbers(text):
    """The numbers of three digits or more in a text, thousands commas and trailing zeros aside."""
    text = re.sub(r"(?<=\d)_(?=\d)", "", text)  # 14_000 in code
    found = re.findall(r"(?<![\w.\-−^{])\d[\d,]*(?:\.\d+)?(?![\w])", text)
    plain = [n.rstrip(",").replace(",", "") for n in found]
    return {n for n in plain if len(n.replace(".", "").lstrip("0")) >= 3}


def test_numbers_in_prose_were_printed(notebook):
    """A number of three digits or more in the prose stands in an output, in the code, or in a quoted source."""
    prose, shown = [], []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose.append(re.sub(r"\*\*References\.\*\*.*|https?://\S+|```.*?```", "", cell.source, flags=re.S))
            continue
        prose += [str(cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", ""))]
        shown.append(cell.source)
        for output in cell.outputs:
            shown.append(output.get("text", "") or output.get("data", {}).get("text/plain", ""))
    known = numbers("\n".join(shown)) | numbers(
        json.dumps([r.get("source", "") for r in claims.table().values()], ensure_ascii=False)
    )
    unaccounted = numbers("\n".join(prose)) - known
    assert not unaccounted


@pytest.mark.parametrize("path", CHAPTERS[:3], ids=lambda p: p.stem)
def test_a_number_changed_by_hand_is_noticed(path, tmp_path):
    """nbval, as the test command runs it, on a copy whose checked output says something else.

    The first chapters stand for all: the mechanism is nbval's, and a run of each costs the test command minutes.
    """
    notebook = nbformat.read(path, as_version=4)
    checked = [c for c in code_cells(notebook) if "nbval-check-output" in c.metadata.get("tags", ())]
    assert checked
    output = checked[0].outputs[0]
    changed = re.sub(r"\d", lambda m: str((int(m[0]) + 1) % 10), output["text"], count=1)
    assert changed != output["text"]
    output["text"] = changed
    last = notebook.cells.index(checked[0])
    notebook.cells = notebook.cells[: last + 1]
    copy = tmp_path / path.name
    nbformat.write(notebook, copy)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-o", "addopts="]
    command += ["--nbval-lax", "--nbval-current-env", copy]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "1 failed" in done.stdout, done.stdout


def test_every_checked_output_was_stored(notebook):
    """A cell without its stored output would be compared with nothing."""
    for cell in code_cells(notebook):
        if "nbval-check-output" in cell.metadata.get("tags", ()):
            assert cell.outputs and cell.execution_count


def test_the_book_lists_every_chapter():
    toc, index = (ROOT / "_toc.yml").read_text(), (ROOT / "book/index.md").read_text()
    for path in CHAPTERS:
        assert f"book/{path.stem}" in toc and f"({path.name})" in index


def test_the_stored_page_of_real_images_was_run_with_them():
    """Without the pack the cells run on digits; such a run must not be what the page shows."""
    (path,) = [p for p in CHAPTERS if p.stem == "07_cnn_real_images"]
    shown = "".join(o.get("text", "") for c in code_cells(nbformat.read(path, as_version=4)) for o in c.outputs)
    assert "100 images of CIFAR-10" in shown and "digits" not in shown.split("Exercise")[0]
