"""Every exercise of every chapter: its solution passes, the untouched cell and a wrong answer do not."""

import contextlib
import functools
import io
import re

import matplotlib
import nbformat
import pytest
from conftest import CHAPTERS, code_cells

from spikenb.book import exercises


def in_chapter(path):
    """The exercise cells of a chapter, each with the solution that follows it."""
    cells = nbformat.read(path, as_version=4).cells
    for i, cell in enumerate(cells):
        if "exercise" in cell.metadata.get("tags", ()):
            block = re.search(r"<summary>Solution</summary>.*?```python\n(.*?)```", cells[i + 1].source, re.S)
            assert block, f"no solution follows {cell.source!r}"
            yield path, re.search(r'check\("([\d.]+)"', cell.source)[1], cell, block[1]


EXERCISES = [e for path in CHAPTERS for e in in_chapter(path)]
each = pytest.mark.parametrize("path, number, cell, solution", EXERCISES, ids=[e[1] for e in EXERCISES])


@functools.cache
def namespace(path):
    """What a chapter has defined when the reader comes to its exercises."""
    matplotlib.use("agg")
    scope = {}
    for cell in code_cells(nbformat.read(path, as_version=4)):
        if "exercise" in cell.metadata.get("tags", ()):
            break
        if "remove-output" not in cell.metadata.get("tags", ()):  # widgets need a front end
            exec(compile(cell.source, path.stem, "exec"), scope)
    return scope


def answer(path, number, cell, code):
    """What the check says to `code` in place of the cell's own answer."""
    call = re.search(r"check\(.*\)", cell.source)[0]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        scope = dict(namespace(path))
        exec(f"{code}\nverdict = {call}", scope)
    return scope["verdict"], out.getvalue()


def test_each_chapter_has_three():
    assert len(EXERCISES) == 3 * len(CHAPTERS)
    numbers = {e[1] for e in EXERCISES}
    assert numbers == {f"{int(path.stem[:2])}.{k}" for path in CHAPTERS for k in (1, 2, 3)}


@each
def test_the_solution_passes(path, number, cell, solution):
    right, said = answer(path, number, cell, solution)
    assert right is True and f"Exercise {number}: right." in said


@each
def test_the_untouched_cell_is_not_answered(path, number, cell, solution):
    untouched = cell.source[: cell.source.index("check(")]
    verdict, said = answer(path, number, cell, untouched)
    assert verdict is None and "not answered yet" in said


@each
def test_a_wrong_answer_fails_and_says_what_to_look_at(path, number, cell, solution):
    verdict, said = answer(path, number, cell, cell.metadata["wrong"])
    assert verdict is False and "not yet." in said and len(said) > 60


@each
def test_a_broken_answer_is_told_and_stops_nothing(path, number, cell, solution):
    name = re.search(r"check\(.*, (\w+)\)", cell.source)[1]
    verdict, said = answer(path, number, cell, f"{name} = lambda *a: 1 / 0")
    assert verdict is False and "raised" in said


def test_an_unknown_number_lists_the_known():
    with pytest.raises(ValueError, match=r"number must be one of .*'1\.1'"):
        exercises.check("99.1", 1)
