"""The course labs: every question in both directions, no solution in what students get, nbgrader's own grading."""

import functools
import io
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from contextlib import redirect_stdout

import jupytext
import matplotlib
import nbformat
import pytest
from conftest import CHAPTERS, ROOT, code_cells

from spikenb.book import classroom, labs

LABS = classroom.sources(ROOT / "labs")
RELEASED = sorted((ROOT / "labs/student").glob("*.ipynb"))
URL = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def questions(path):
    """Of a lab's source each question's number, its answer cell with the wrong answers, and its check cell."""
    cells = jupytext.read(path).cells
    for i, cell in enumerate(cells):
        if cell.metadata.get("nbgrader", {}).get("grade_id", "").startswith("check-"):
            number = re.search(r'check\("([\d.]+)"', cell.source)[1]
            name = f"answer-{number.replace('.', '-')}"
            (answer,) = [c for c in cells[:i] if c.metadata.get("nbgrader", {}).get("grade_id") == name]
            yield path, number, answer, cell


QUESTIONS = [q for path in LABS for q in questions(path)]
each = pytest.mark.parametrize("path, number, answer, test", QUESTIONS, ids=[q[1] for q in QUESTIONS])
WRONG = [(*q, wrong) for q in QUESTIONS for wrong in q[2].metadata.get("wrong", ())]


def run(source, scope):
    """What a cell prints; like a notebook, it shares its names with the others."""
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(source, "cell", "exec"), scope)
    return out.getvalue()


@functools.cache
def scopes(path):
    """A lab done right from top to bottom: what is defined when each question's answer comes, and what checks said."""
    matplotlib.use("agg")
    scope, before, said = {}, {}, {}
    for cell in code_cells(classroom.solved(classroom.read(path))):
        name = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        if name.startswith("answer-"):
            before[name[7:].replace("-", ".")] = dict(scope)
        output = run(cell.source, scope)
        if name.startswith("check-"):
            said[name[6:].replace("-", ".")] = output
    return before, said


def refused(path, number, source, test):
    """What the check says to a wrong answer, which it must refuse."""
    scope = dict(scopes(path)[0][number])
    run(source, scope)
    with pytest.raises(labs.NotYet) as refusal:
        run(test.source, scope)
    return str(refusal.value)


def test_four_labs_with_a_core_and_an_extension():
    assert [p.stem for p in LABS] == ["1_stability", "2_catapults", "3_features", "4_strong_claim"]
    for path in LABS:
        core, whole = (classroom.version(classroom.read(path), minutes) for minutes in (50, 110))
        graded = [
            sum(c.metadata.get("nbgrader", {}).get("grade_id", "").startswith("check-") for c in notebook.cells)
            for notebook in (core, whole)
        ]
        assert 4 <= graded[0] <= 6 and 3 <= graded[1] - graded[0] <= 4


@each
def test_the_solution_passes(path, number, answer, test):
    assert f"Question {number}: right." in scopes(path)[1][number]


@each
def test_the_untouched_cell_is_not_answered(path, number, answer, test):
    untouched = classroom.cleared(nbformat.v4.new_notebook(cells=[answer])).cells[0].source
    assert f"Question {number}: not answered yet." in refused(path, number, untouched, test)


@each
def test_there_are_two_common_wrong_answers(path, number, answer, test):
    assert len(answer.metadata["wrong"]) >= 2


@pytest.mark.parametrize("path, number, answer, test, wrong", WRONG, ids=[f"{w[1]} {w[4]['says'][:20]}" for w in WRONG])
def test_a_common_wrong_answer_is_named(path, number, answer, test, wrong):
    said = refused(path, number, wrong["answer"], test)
    assert f"Question {number}: not yet." in said and wrong["says"] in said


@each
def test_a_broken_answer_is_told(path, number, answer, test):
    name = re.search(r'check\("[\d.]+", (\w+)', test.source)[1]
    assert "not yet." in refused(path, number, f"def {name}(*a): return 1 / 0", test)


FUNCTIONS = [q for q in QUESTIONS if q[2].source.startswith("def ")]


@pytest.mark.parametrize("path, number, answer, test", FUNCTIONS, ids=[q[1] for q in FUNCTIONS])
def test_a_function_without_a_return_is_told(path, number, answer, test):
    name = re.match(r"def (\w+)", answer.source)[1]
    assert "it needs a return" in refused(path, number, f"def {name}(*a):\n    result = 1", test)


def test_a_notebook_shows_the_message_and_no_traceback():
    with pytest.raises(labs.NotYet) as refusal:
        labs.check("1.1", ...)
    assert refusal.value._render_traceback_() == [str(refusal.value)]


def test_an_unknown_number_lists_the_known():
    with pytest.raises(ValueError, match=r"number must be one of .*'1\.1'"):
        labs.check("9.9", 1)


def test_a_check_leaves_nothing_on_stderr(capsys):
    """nbgrader takes a progress bar for a failure."""

    @labs.question("0.0")
    def loud(answer):
        print("50%", file=sys.stderr)
        return True, "Fine."

    labs.check("0.0", 1)
    assert capsys.readouterr().err == ""
    del labs._CHECKS["0.0"]


def test_checks_are_marked_as_nbgrader_wants_them():
    for path in LABS:
        names = []
        for cell in jupytext.read(path).cells:
            mark = cell.metadata.get("nbgrader")
            if not mark:
                assert "SOLUTION" not in cell.source
                continue
            names.append(mark["grade_id"])
            kind = mark["grade_id"].split("-")[0]
            expected = {"answer": (False, True, False), "check": (True, False, True), "words": (True, True, False)}
            assert (mark["grade"], mark["solution"], mark["locked"]) == expected[kind]
            assert ("points" in mark) == mark["grade"] and ("SOLUTION" in cell.source) == mark["solution"]
            if kind == "check":  # its own import: a check that a student has shadowed gives no points
                assert cell.source.startswith("from spikenb.book.labs import check\n\ncheck(")
                assert "raises-exception" in cell.metadata["tags"]
        assert len(names) == len(set(names))


def test_what_students_get_is_up_to_date():
    """nbgrader's notebooks, as stored, are the sources with the solutions taken out by our own few lines."""
    assert len(RELEASED) == 2 * len(LABS)
    assert not classroom.stale(ROOT / "labs"), "run: python3 make.py labs"


def test_a_notebook_that_is_not_up_to_date_is_noticed(tmp_path):
    shutil.copytree(ROOT / "labs", tmp_path / "labs")
    shutil.copytree(ROOT / "assets", tmp_path / "assets")
    (tmp_path / "labs/student/2_catapults_50.ipynb").unlink()
    changed = tmp_path / "labs/student/1_stability_110.ipynb"
    changed.write_text(changed.read_text("utf-8").replace("Your answer goes here.", "rate = 0.076", 1), "utf-8")
    assert classroom.stale(tmp_path / "labs") == ["1_stability_110.ipynb", "2_catapults_50.ipynb"]


def test_student_notebooks_have_no_outputs_no_wrong_answers_and_their_badge():
    for path in RELEASED:
        notebook = nbformat.read(path, as_version=4)
        assert not any(c.outputs or c.execution_count for c in code_cells(notebook))
        assert not any("wrong" in c.metadata for c in notebook.cells)
        first = notebook.cells[0]
        place = (
            f"https://colab.research.google.com/github/{URL.split('github.com/')[1]}/blob/main/labs/student/{path.name}"
        )
        assert f"[![Open in Colab](attachment:open-in-colab.svg)]({place})" in first.source
        assert "image/svg+xml" in first.attachments["open-in-colab.svg"]


def test_labs_set_up_as_the_chapters_do():
    """The same cell, and one line more: a wheel that lies beside the notebook, as in a room without a network."""
    (chapter,) = {code_cells(nbformat.read(p, as_version=4))[0].source.split("\n\nimport ")[0].split("\n\nfrom ")[0]
                  for p in (ROOT / "book").glob("01*.ipynb")}  # fmt: skip
    for path in LABS:
        lab = code_cells(jupytext.read(path))[0].source.split("\n\nimport ")[0]
        added = '    source = next(iter(glob.glob("spikenb-*.whl")), source)\n'
        assert lab.replace(added, "").replace("import glob, importlib", "import importlib") == chapter


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """The archive for a room without a network, with what is in it: {name: text}, the wheel unpacked."""
    folder = tmp_path_factory.mktemp("offline")
    wheel = classroom.wheel_in(folder, ROOT)
    classroom.archive(ROOT / "labs/student", wheel, folder / "labs.zip")
    with zipfile.ZipFile(folder / "labs.zip") as packed:
        packed.extractall(folder)
        names = packed.namelist()
    texts = {n: (folder / n).read_text("utf-8") for n in names if n.endswith((".ipynb", ".md"))}
    with zipfile.ZipFile(wheel) as packed:
        texts |= {n: packed.read(n).decode("utf-8") for n in packed.namelist() if n.endswith((".py", ".toml", ".txt"))}
    return folder, names, texts


def in_cells(texts):
    """Every line of code and prose in the texts, stripped; a notebook's from its cells."""
    for name, text in texts.items():
        sources = [c["source"] for c in json.loads(text)["cells"]] if name.endswith(".ipynb") else [text]
        for source in sources:
            yield from ((name, line.strip()) for line in "".join(source).splitlines())


def shown(lines, texts):
    """Which of the solutions' lines are in the texts: a short one as a whole line, a longer one anywhere in a line."""
    places = list(in_cells(texts))
    whole = {line for _, line in places}
    return {line for line in lines if line in whole or (len(line) > 9 and any(line in other for other in whole))}


def test_no_solution_is_in_what_students_get(offline):
    lines = {line for path in LABS for line in classroom.solution_lines(classroom.read(path))}
    assert len(lines) > 50
    assert not shown(lines, offline[2])
    assert not [n for n, text in offline[2].items() if n.endswith(".ipynb") and "BEGIN SOLUTION" in text]


def test_the_search_finds_what_is_there():
    """The control: a solved notebook among the students' would be noticed, and so would one line in one cell."""
    lines = set(classroom.solution_lines(classroom.read(LABS[0])))
    assert shown(lines, {"solved.ipynb": nbformat.writes(classroom.solved(classroom.read(LABS[0])))}) == lines
    slip = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("  rate = 1.9 / 25")])
    assert shown(lines, {"slip.ipynb": nbformat.writes(slip)}) == {"rate = 1.9 / 25"}


def test_the_archive_holds_notebooks_wheel_and_data(offline):
    folder, names, _ = offline
    inside = {n.removeprefix("spikenb-labs/") for n in names}
    assert {p.name for p in RELEASED} | {"README.md", "data/digits.npz"} <= inside
    assert any(re.fullmatch(r"spikenb-[\d.]+-py3-none-any\.whl", n) for n in inside)
    import numpy as np

    from spikenb import data

    with np.load(folder / "spikenb-labs/data/digits.npz") as pack:
        for split in ("train", "test"):
            x, y = data.load("digits", split=split)
            assert (x[:, 0].numpy() == pack[f"x_{split}"] / np.float32(16)).all()
            assert (y.numpy() == pack[f"y_{split}"]).all()


def test_bad_input_names_the_argument(tmp_path):
    with pytest.raises(ValueError, match="folder must hold sources"):
        classroom.sources(tmp_path)
    with pytest.raises(ValueError, match="minutes must be one of"):
        classroom.version(classroom.read(LABS[0]), 60)
    with pytest.raises(ValueError, match="one cell with the tag extension"):
        classroom.version(nbformat.v4.new_notebook(), 50)
    with pytest.raises(ValueError, match="students must be a folder"):
        classroom.archive(tmp_path, tmp_path / "x.whl", tmp_path / "x.zip")
    with pytest.raises(ValueError, match="packs must be a folder"):
        classroom.archive(ROOT / "labs/student", tmp_path / "x.whl", tmp_path / "x.zip", packs=tmp_path)


GRADE = """
import json, sys
from pathlib import Path
import nbformat
from nbgrader.api import Gradebook
from spikenb.book import classroom

labs, target = Path(sys.argv[1]), Path(sys.argv[2])
name = "stability_50"
classroom.course(labs, target, only=[name])
released = target / "release" / name / "1_stability_50.ipynb"
right = {c.metadata.nbgrader.grade_id: c.source for c in classroom.solved(classroom.read(labs / "1_stability.md")).cells
         if c.metadata.get("nbgrader", {}).get("solution")}

def hand_in(student, change):
    notebook = nbformat.read(released, as_version=4)
    for cell in notebook.cells:
        if "nbgrader" in cell.metadata:
            change(cell, cell.metadata.nbgrader.grade_id)
    folder = target / "submitted" / student / name
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / released.name)

def solve(cell, grade_id):
    cell.source = right.get(grade_id, cell.source)

def tamper(cell, grade_id):
    if grade_id == "answer-1-1":
        cell.source = "rate = 2 / 25\\ncheck = print"
    if grade_id.startswith("check-"):
        cell.source = "pass"
        cell.metadata.nbgrader.points = 50

hand_in("right", solve)
hand_in("untouched", lambda cell, grade_id: None)
hand_in("tampered", tamper)
classroom.nbgrader(target, "autograde", name)
found = {}
with Gradebook(f"sqlite:///{target}/gradebook.db") as book:
    for student in ("right", "untouched", "tampered"):
        graded = book.find_submission(name, student).notebooks[0]
        auto = {g.name: [g.auto_score, g.max_score] for g in graded.grades}
        done = nbformat.read(target / "autograded" / student / name / released.name, as_version=4)
        found[student] = {"grades": auto, "needs": graded.needs_manual_grade,
            "checks": [c.source for c in done.cells if "check-" in c.metadata.get("nbgrader", {}).get("grade_id", "")],
            "said": [o.get("evalue", "") for c in done.cells for o in c.get("outputs", ()) if o.output_type == "error"]}
print("RESULT" + json.dumps(found))
"""


def test_nbgrader_grades_in_both_directions_and_restores_a_tampered_test(tmp_path):
    """The real grader: all points for the solution, none for the untouched notebook nor for tests that were changed."""
    done = subprocess.run(
        [sys.executable, "-c", GRADE, ROOT / "labs", tmp_path / "course"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.split("RESULT")[1])
    checks = [q[3].source for q in QUESTIONS if q[1] in ("1.1", "1.2", "1.3", "1.4", "1.5")]
    for student, full in (("right", True), ("untouched", False), ("tampered", False)):
        seen = found[student]
        assert seen["checks"] == checks
        for name, (points, most) in seen["grades"].items():
            assert most == {"check-1-1": 1, "check-1-5": 1, "words-1-5": 3}.get(name, 2)
            if name.startswith("check-"):
                assert points == (most if full else 0), (student, name)
    assert found["right"]["grades"]["words-1-5"][0] is None and found["right"]["needs"]  # read by the teacher
    assert found["untouched"]["grades"]["words-1-5"][0] == 0
    assert any("not answered yet" in said for said in found["untouched"]["said"])
    assert any("the threshold" in said for said in found["tampered"]["said"])


GUIDE = (ROOT / "book/teachers_guide.md").read_text("utf-8")
CHAPTER_GUIDE = (ROOT / "book/teachers_chapters.md").read_text("utf-8")


def test_the_guide_has_every_lab_with_all_its_parts():
    sections = re.split(r"\n## Lab (\d)", GUIDE)[1:]
    assert sections[::2] == [p.stem[0] for p in LABS]
    for section in sections[1::2]:
        for part in ("Outcomes", "What students get wrong, and what to ask", "Rubric", "Exit quiz"):
            assert f"**{part}.**" in section
        plans = re.findall(r"\*\*Plan, (\d+) minutes\.\*\*\n\n(.*?)\n\n", section, re.S)
        assert [total for total, _ in plans] == ["50", "110"]
        for total, plan in plans:
            assert sum(map(int, re.findall(r"^\| (\d+) \|", plan, re.M))) == int(total)
        assert len(re.findall(r"^\d\. \*.+\* .+$", section, re.M)) == 5


def test_the_guide_has_every_chapter_with_all_its_parts():
    sections = re.split(r"\n## Chapter (\d+)", CHAPTER_GUIDE)[1:]
    assert [int(n) for n in sections[::2]] == list(range(1, len(CHAPTERS) + 1))
    for section in sections[1::2]:
        for part in ("Outcomes", "What students get wrong, and what to ask", "Listen for"):
            assert f"**{part}.**" in section
        plan = re.search(r"\*\*Plan\.\*\* (.*)", section)[1]
        assert sum(map(int, re.findall(r"(\d+) min", plan))) == 50
        quiz = re.search(r"\*\*Exit quiz\.\*\* (.*)", section)[1]
        assert len(re.findall(r"\*[^*]+[?:.]\*", quiz)) == 3


def test_the_guides_points_are_the_labs():
    """The rubric names a number of points for each question; they are those of the checks."""
    for path, section in zip(LABS, re.split(r"\n## Lab \d", GUIDE)[1:], strict=True):
        rubric = re.search(r"\*\*Rubric\.\*\* Checks, with their points: (.*?)\. In words", section)[1]
        said = {number: int(points) for number, points in re.findall(r"(\d\.\d) \((\d)\)", rubric)}
        assert said == {q[1]: q[3].metadata["nbgrader"]["points"] for q in QUESTIONS if q[0] == path}
