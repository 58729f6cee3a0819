"""A chapter alone, as Colab opens it: an empty folder, no spikenb, and only its set-up cell to install one."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import CHAPTERS, ROOT

from spikenb.book import classroom

RUN = """
import nbformat, sys
from nbclient import NotebookClient
notebook = nbformat.read("chapter.ipynb", as_version=4)
client = NotebookClient(notebook, timeout=300, kernel_name="python3")
client.comm_open_handlers.clear()  # as make.py does
client.execute()
code = [c for c in notebook.cells if c.cell_type == "code"]
assert not [o for c in code for o in c.outputs if o.output_type == "error"]
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package as a wheel, built without the network from a copy of the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(command, check=True)
    (built,) = folder.glob("spikenb-*.whl")
    return built


@pytest.fixture
def python_without_spikenb(tmp_path):
    """A venv that sees everything installed here except spikenb: an editable install's .pth is not read there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (site,) = (
        (tmp_path / "venv").glob("lib/python*/site-packages")
        if os.name != "nt"
        else [tmp_path / "venv/Lib/site-packages"]
    )
    parent = Path(pytest.__file__).parent.parent
    (site / "parent.pth").write_text(str(parent))
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    find = "import importlib.util; print(importlib.util.find_spec('spikenb'))"
    assert subprocess.check_output([python, "-c", find], cwd=tmp_path, text=True).strip() == "None"
    return python


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_runs_alone(chapter, wheel, python_without_spikenb, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "chapter.ipynb").write_bytes(chapter.read_bytes())
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST", "SPIKENB"))}
    environment["SPIKENB_SOURCE"] = str(wheel)
    before = os.times()
    done = subprocess.run(
        [python_without_spikenb, "-c", RUN], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    used = [after - start for after, start in zip(os.times()[2:4], before[2:4], strict=True)]
    assert sum(used) < 120  # seconds of CPU: what two cores have in the budget of 60 s, set-up included
    where = subprocess.check_output(
        [python_without_spikenb, "-c", "import spikenb; print(spikenb.__file__)"], cwd=folder, text=True
    )
    assert str(tmp_path) in where, "the chapter used another spikenb than the wheel"


RUN_ALL = """
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read("1_stability_50.ipynb", as_version=4)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
for output in (o for cell in notebook.cells for o in cell.get("outputs", ())):
    if output.output_type == "error":
        print("|", *output.traceback)
"""


def test_a_lab_runs_from_the_archive_without_a_network(wheel, python_without_spikenb, tmp_path):
    """Unpacked in an empty folder: the first cell installs the wheel beside it, and "run all" asks for answers."""
    classroom.archive(ROOT / "labs/student", wheel, tmp_path / "labs.zip")
    with zipfile.ZipFile(tmp_path / "labs.zip") as packed:
        packed.extractall(tmp_path)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST", "SPIKENB"))}
    environment |= {"PIP_NO_INDEX": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [python_without_spikenb, "-c", RUN_ALL],
        cwd=tmp_path / "spikenb-labs",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for number in ("1.1", "1.2", "1.3", "1.4", "1.5"):
        assert f"| Question {number}: not answered yet." in done.stdout
    where = subprocess.check_output(
        [python_without_spikenb, "-c", "import spikenb; print(spikenb.__file__)"], cwd=tmp_path, text=True
    )
    assert str(tmp_path) in where


def test_without_the_set_up_cell_it_fails(python_without_spikenb, tmp_path):
    """The control: nothing else brings the package in."""
    done = subprocess.run(
        [python_without_spikenb, "-c", "import spikenb"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "ModuleNotFoundError" in done.stderr
