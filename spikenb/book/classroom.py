"""The course labs, from one source each: what students get, the solved notebooks, and the grader's folder.

    python -m spikenb.book.classroom labs labs _build/labs
    python -m spikenb.book.classroom offline labs _build/spikenb-offline.zip
    python -m spikenb.book.classroom solved labs FOLDER

`make.py labs` does the first, with nbgrader, `make.py offline` the second; the third writes the solved notebooks alone.
The student notebooks are kept in `labs/student`, where Colab opens them. A source is a text notebook with nbgrader's
markers, `labs/N_name.md`. Each is made for a session of 50 minutes, which ends where a cell has the tag `extension`,
and for one of 110.
"""

import argparse
import base64
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

MINUTES = (50, 110)
STUB, TEXT_STUB = "# Your answer goes here.", "*Your answer goes here.*"
BADGE = "open-in-colab.svg"

CONFIG = f'''"""nbgrader's settings for the labs; run its commands in this folder."""

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "spikenb"
c.ClearSolutions.code_stub = {{"python": {STUB!r}}}
c.ClearSolutions.text_stub = {TEXT_STUB!r}
c.ExecutePreprocessor.timeout = 300
c.Execute.timeout = 300
'''

GRADING = """# To grade

1. Put what a student handed in at `submitted/NAME/ASSIGNMENT/FILE.ipynb`, for instance
   `submitted/ada/stability_50/1_stability_50.ipynb`. The file's name must stay as it was given out.
2. In this folder, with the `nbgrader` of the environment that made it (`.venv`): `nbgrader autograde stability_50`.
   Cells with checks are put back as they were before anything runs.
3. `nbgrader formgrader` (in `jupyter lab`) for the answers in words: the rubric is in the teacher's guide.
4. `nbgrader generate_feedback stability_50` writes a page a student; `nbgrader export` writes all grades.
"""

OFFLINE = """# The labs without a network

Needed on each machine: Python 3.11 or newer with torch, numpy, scipy, scikit-learn, matplotlib, tqdm, ipython,
ipywidgets, and JupyterLab. numba makes lab 1 faster.

1. Unpack this archive, and start JupyterLab in its folder: `jupyter lab`.
2. Open a lab and run its first cell. It installs spikenb from the wheel that lies beside it, and nothing else. By
   hand it is `python -m pip install --no-index --no-deps spikenb-*.whl`.
3. The labs' images come with scikit-learn. The folder `data` holds them, or the sets that your teacher added, as
   packs; `SPIKENB_DATA=data jupyter lab` lets `data.load` find the latter.
"""


def sources(folder):
    """The labs' sources in a folder, in order. ValueError for a folder without any."""
    found = sorted(Path(folder).glob("[0-9]_*.md"))
    if not found:
        raise ValueError(f"folder must hold sources such as 1_stability.md, not {folder}")
    return found


def read(source):
    """A lab's source as a notebook, whole. The wrong answers that the tests try are left out."""
    import jupytext

    notebook = jupytext.read(source)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell.metadata.pop("wrong", None)
    return notebook


def version(notebook, minutes):
    """The notebook for a session of 50 or 110 minutes, with the Colab badge that leads to it."""
    if minutes not in MINUTES:
        raise ValueError(f"minutes must be one of {MINUTES}, not {minutes!r}")
    tagged = [i for i, cell in enumerate(notebook.cells) if "extension" in cell.metadata.get("tags", ())]
    if len(tagged) != 1:
        raise ValueError(f"notebook must have one cell with the tag extension, not {len(tagged)}")
    made = notebook.copy()
    made.cells = [cell.copy() for cell in notebook.cells[: tagged[0] if minutes == 50 else None]]
    for cell in made.cells:
        cell.source = cell.source.replace("_110.ipynb", f"_{minutes}.ipynb")
    return made


def with_badge(notebook, image):
    """Put the badge's picture into the cell that shows it, so that a copy of the notebook anywhere has it."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and BADGE in cell.source:
            cell.source = re.sub(rf"\([^()]*{BADGE}\)", f"(attachment:{BADGE})", cell.source)
            data = base64.b64encode(Path(image).read_bytes()).decode()
            cell["attachments"] = {BADGE: {"image/svg+xml": data}}
    return notebook


def cleared(notebook):
    """The notebook without its solutions: the twin of what nbgrader makes, for tests and for where it is missing."""
    made = notebook.copy()
    made.cells = [cell.copy() for cell in notebook.cells]
    for cell in made.cells:
        stub = STUB if cell.cell_type == "code" else TEXT_STUB
        region = r"^([ \t]*)### BEGIN SOLUTION\n.*?^[ \t]*### END SOLUTION$"
        cell.source = re.sub(region, lambda m, stub=stub: m[1] + stub, cell.source, flags=re.S | re.M)
    return made


def solved(notebook):
    """The notebook with its solutions and without their markers."""
    made = notebook.copy()
    made.cells = [cell.copy() for cell in notebook.cells]
    for cell in made.cells:
        cell.source = re.sub(r"^[ \t]*### (BEGIN|END) SOLUTION\n?", "", cell.source, flags=re.M).rstrip("\n")
    return made


def solution_lines(notebook):
    """Every line of every solution that says something, and what it returns or assigns: what no student may get.

    The options of a choice are no secret: of `answer = "this"` the line counts, the option by itself does not.
    """
    regions = (re.findall(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", c.source, re.S) for c in notebook.cells)
    lines = {line.strip() for found in regions for region in found for line in region.splitlines()}
    values = {re.sub(r"^(return |[\w, ]+ = )", "", line) for line in lines}
    return sorted({line for line in lines if len(line) > 6} | {v for v in values if len(v) > 9 and v[0] != '"'})


def assignments(folder):
    """(assignment, file name, notebook) of every lab in both lengths."""
    folder = Path(folder)
    for source in sources(folder):
        whole = with_badge(read(source), folder.parent / "assets" / BADGE)
        for minutes in MINUTES:
            name = f"{source.stem}_{minutes}"
            yield name.split("_", 1)[1], f"{name}.ipynb", version(whole, minutes)


def stale(folder):
    """The names of the student notebooks, in `folder`/student, that are not what the sources give."""
    import nbformat

    made = {name: cleared(notebook).cells for _, name, notebook in assignments(folder)}
    there = {p.name: nbformat.read(p, as_version=4).cells for p in Path(folder, "student").glob("*.ipynb")}
    both = {name: [[(c.cell_type, c.source) for c in cells[name]] for cells in (made, there) if name in cells]
            for name in made | there}  # fmt: skip
    return sorted(name for name, found in both.items() if len(found) < 2 or found[0] != found[1])


def nbgrader(folder, *arguments):
    """Run one of nbgrader's commands in the course's folder. OSError with its last words where it fails."""
    command = [sys.executable, "-m", "nbgrader", *arguments]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # nbgrader calls alembic by name
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"nbgrader {arguments[0]} failed:\n{done.stderr[-2000:]}")
    return done.stderr


def course(folder, target, only=None):
    """The grader's folder: sources, released notebooks and gradebook, by nbgrader itself. Returns its path.

    `only`: the assignments to make, all unless given.
    """
    import nbformat

    target = Path(target)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (target / "submitted").mkdir()
    (target / "nbgrader_config.py").write_text(CONFIG, encoding="utf-8")
    (target / "README.md").write_text(GRADING, encoding="utf-8")
    for assignment, name, notebook in assignments(folder):
        if only is None or assignment in only:
            (target / "source" / assignment).mkdir(parents=True)
            nbformat.write(notebook, target / "source" / assignment / name)
            nbgrader(target, "generate_assignment", assignment, "--create")
    return target


def run(notebook, name):
    """Execute a notebook in place. ValueError, with the check's message, if a solution does not pass."""
    from nbclient import NotebookClient

    client = NotebookClient(notebook, timeout=300, kernel_name="python3")
    client.execute()
    for output in (o for cell in notebook.cells for o in cell.get("outputs", ())):
        if output.output_type == "error":  # a check's: its tag lets the rest run
            raise ValueError(f"{name}: a solution does not pass: {output.evalue}")


def make(folder, target, execute=True):
    """All of `target`: student, solved and grader. Returns the student notebooks' paths."""
    import nbformat

    target = Path(target).resolve()
    for part in ("student", "solved"):
        shutil.rmtree(target / part, ignore_errors=True)
    (target / "student").mkdir(parents=True)
    course(folder, target / "grader")
    made = []
    for path in sorted((target / "grader/release").glob("*/*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        made.append(target / "student" / path.name)
        made[-1].write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    make_solved(folder, target / "solved", execute)
    return made


def make_solved(folder, target, execute=False):
    """The solved notebooks in `target`; with `execute` each solution must pass, and what the cells print is kept."""
    import nbformat

    Path(target).mkdir(parents=True, exist_ok=True)
    for source in sources(folder):
        whole = solved(with_badge(read(source), Path(folder).parent / "assets" / BADGE))
        if execute:
            run(whole, source.name)
        for minutes in MINUTES:
            nbformat.write(version(whole, minutes), Path(target, f"{source.stem}_{minutes}.ipynb"))


def digits_pack(path):
    """scikit-learn's digits as a pack, the split that `data.load` makes."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    np.savez_compressed(path, x_train=x[:-297], y_train=y[:-297], x_test=x[-297:], y_test=y[-297:])


def archive(students, wheel, target, packs=None):
    """The zip for a room without a network. Returns the names in it.

    Parameters
    ----------
    students : folder of the student notebooks
    wheel : path of the package's wheel
    target : path of the zip
    packs : folder of data packs, `NAME.npz`, to put in; scikit-learn's digits unless given

    Raises ValueError for a folder without notebooks or packs.
    """
    notebooks = sorted(Path(students).glob("*.ipynb"))
    if not notebooks:
        raise ValueError(f"students must be a folder of student notebooks, not {students}; make the labs first")
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        if packs is None:
            digits_pack(Path(scratch, "digits.npz"))
        found = sorted(Path(scratch if packs is None else packs).glob("*.npz"))
        if not found:
            raise ValueError(f"packs must be a folder with packs such as usps.npz, not {packs}")
        readme = Path(scratch, "README.md")
        readme.write_text(OFFLINE, encoding="utf-8")
        files = {p.name: p for p in (readme, Path(wheel), *notebooks)} | {f"data/{p.name}": p for p in found}
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, path in files.items():
                entry = zipfile.ZipInfo(f"spikenb-labs/{name}", (2026, 1, 1, 0, 0, 0))
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                packed.writestr(entry, path.read_bytes())
    return [f"spikenb-labs/{name}" for name in files]


def wheel_in(folder, root):
    """Build the package's wheel into a folder, from a copy and without a network. Returns its path."""
    options = ["-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as copy:  # a build leaves files behind, which the next would take in
        shutil.copytree(Path(root, "spikenb"), Path(copy, "spikenb"), ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(Path(root, name), copy)
        subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", folder, copy], check=True)
    (built,) = Path(folder).glob("spikenb-*.whl")
    return built


def main():
    """The command line of all three."""
    parser = argparse.ArgumentParser(description="The course labs: notebooks, grader's folder, offline archive.")
    commands = parser.add_subparsers(dest="command", required=True)
    labs = commands.add_parser("labs", help="student, solved and grader")
    labs.add_argument("sources", type=Path)
    labs.add_argument("target", type=Path)
    bare = commands.add_parser("solved", help="the solved notebooks alone, not executed")
    bare.add_argument("sources", type=Path)
    bare.add_argument("target", type=Path)
    offline = commands.add_parser("offline", help="the zip for a room without a network")
    offline.add_argument("sources", type=Path)
    offline.add_argument("target", type=Path)
    offline.add_argument("--packs", type=Path, help="a folder of data packs to put in (scikit-learn's digits)")
    given = parser.parse_args()
    try:
        if given.command == "labs":
            made = make(given.sources, given.target)
            released = given.sources / "student"
            shutil.rmtree(released, ignore_errors=True)
            shutil.copytree(given.target / "student", released)
            print(f"{given.target}: {len(made)} student notebooks, as many solved, and the grader's folder")
        elif given.command == "solved":
            make_solved(given.sources, given.target)
        else:
            if old := stale(given.sources):
                raise ValueError(f"not up to date: {', '.join(old)}; run first: python3 make.py labs")
            with tempfile.TemporaryDirectory() as scratch:
                wheel = wheel_in(scratch, Path.cwd())
                names = archive(given.sources / "student", wheel, given.target, given.packs)
            print(f"{given.target}: {len(names)} files, {os.path.getsize(given.target) / 1e6:.1f} MB")
    except (OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
