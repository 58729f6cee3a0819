"""The repository as a stranger finds it: one address, two commands, licences, tidy code."""

import argparse
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import CHAPTERS, ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
URL = PROJECT["project"]["urls"]["Repository"]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_one_address_everywhere():
    config = yaml.safe_load(text("_config.yml"))
    assert config["repository"]["url"] == URL
    assert yaml.safe_load(text("CITATION.cff"))["repository-code"] == URL
    assert f"git+{URL}`" in text("README.md") and f"git+{URL}`" in text("book/api.md")
    for path in CHAPTERS:
        cells = nbformat.read(path, as_version=4).cells
        setup = next(c.source for c in cells if c.cell_type == "code")
        assert f'"git+{URL}"' in setup
        badge = f"https://colab.research.google.com/github/{URL.split('github.com/')[1]}/blob/main/book/{path.name}"
        assert f"[![Open in Colab](../assets/open-in-colab.svg)]({badge})" in "\n".join(c.source for c in cells)
    addresses = set(
        re.findall(r"github\.com/[\w.-]+/[\w.-]+", text("README.md") + text("_config.yml") + text("book/index.md"))
    )
    assert addresses <= {URL.removeprefix("https://")}


def test_ci_and_workflow_run_the_readmes_lines():
    test, book = "python3 make.py test", "python3 make.py book"
    assert f"```sh\n{test}\n```" in text("README.md") and f"```sh\n{book}\n```" in text("README.md")
    assert text(".ci/run").rstrip().endswith(test)
    workflow = text(".github/workflows/book.yml")
    assert test in workflow and book in workflow
    yaml.safe_load(workflow)


def test_make_py_needs_nothing_installed():
    """It runs on a bare Python: only the standard library is imported."""
    names = re.findall(r"^(?:import|from) (\w+)", text("make.py"), re.M)
    assert names and set(names) <= sys.stdlib_module_names
    helped = subprocess.run([sys.executable, "-S", ROOT / "make.py", "--help"], capture_output=True, text=True)
    assert helped.returncode == 0 and "python3 make.py book" in helped.stdout


@pytest.fixture
def make():
    """make.py as a module."""
    spec = importlib.util.spec_from_file_location("make", ROOT / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_versions_that_the_notebooks_are_tried_with(make):
    """Colab's are allowed by pyproject.toml, the oldest are its lower bounds; `make.py versions` runs both by name."""
    needed = {r.name: r.specifier for r in map(Requirement, PROJECT["project"]["dependencies"])}
    colab = dict(line.split("==") for line in make.lines("tests/requirements-colab.txt"))
    assert needed.keys() <= colab.keys() and all(colab[name] in needed[name] for name in needed)
    oldest = dict(line.split("==") for line in make.oldest())
    assert {"numba", "ipykernel"} <= oldest.keys() and oldest["torch"] == "2.4"
    assert all(needed[name] == SpecifierSet(f">={oldest[name]}") for name in needed)
    this = ".".join(map(str, sys.version_info[:2]))
    assert make.python_near("0.1") is None and make.python_near(this) == sys.executable
    with pytest.raises(SystemExit, match='name one, "colab" or "oldest"'):
        make.versions(argparse.Namespace(rest=["newest"]))


def test_a_run_without_the_pack_leaves_the_stored_page_alone(make, monkeypatch, tmp_path, capsys):
    """The page that names a pack is executed where the pack is, or where nothing is stored yet."""
    executed = []

    def run(*arguments):
        executed.append(arguments[-1])
        Path(arguments[-1]).with_suffix(".ipynb").write_text('{"metadata": {"kernelspec": {}}, "cells": []}')

    monkeypatch.setattr(make, "run", run)
    monkeypatch.setattr(make, "ROOT", tmp_path)
    monkeypatch.setattr(make, "first_figure", lambda path: b"")
    (tmp_path / "assets").mkdir()
    page, target = tmp_path / "07_x.md", tmp_path / "07_x.ipynb"
    page.write_text('data.load("cifar10", n=n)\ndata.load("digits", n=n)\ndata.load( \'usps\')')
    target.write_text("stored")
    arguments = argparse.Namespace(rest=[str(page)])
    for folder in (None, str(tmp_path), str(tmp_path / "nowhere")):
        if folder is None:
            monkeypatch.delenv("SPIKENB_DATA", raising=False)
        else:
            monkeypatch.setenv("SPIKENB_DATA", folder)
        make.notebooks(arguments)
        assert not executed and target.read_text() == "stored"
        assert "07_x.ipynb is left as it is" in (said := capsys.readouterr().out) and "cifar10.npz, usps.npz" in said
    (tmp_path / "cifar10.npz").touch()
    monkeypatch.setenv("SPIKENB_DATA", str(tmp_path))
    make.notebooks(arguments)
    assert not executed and "usps.npz" in (said := capsys.readouterr().out) and "cifar10" not in said
    (tmp_path / "usps.npz").touch()
    make.notebooks(arguments)
    assert executed == [str(page), str(target)] and target.read_text() != "stored"
    monkeypatch.delenv("SPIKENB_DATA")
    page.write_text('data.load("digits")')
    make.notebooks(arguments)
    assert len(executed) == 4
    target.unlink()
    page.write_text('data.load("cifar10")')
    make.notebooks(arguments)  # nothing is stored that could be lost
    assert len(executed) == 6


def test_the_readmes_figure_is_the_chapters(make):
    assert (ROOT / "assets/spike.png").read_bytes() == make.first_figure(ROOT / "book/02_slas_toy.ipynb")


def test_licences_and_citation():
    assert text("LICENSE").startswith("MIT License") and "CC BY 4.0" in text("LICENSE-text")
    citation = yaml.safe_load(text("CITATION.cff"))
    assert len(citation["references"]) == 4 and citation["version"] == PROJECT["project"]["version"]
    bibliography = text("book/references.bib")
    for source in citation["references"]:
        assert source.get("doi", "Slides") in bibliography


def test_every_entry_of_the_bibliography_has_its_doi():
    """All but the slides, which have none; a DOI of arXiv is that of the entry's own number."""
    found = {}
    for entry in re.split(r"^@", text("book/references.bib"), flags=re.M)[1:]:
        name = re.match(r"\w+\{(\w+),", entry)[1]
        found[name] = doi = re.search(r"^  doi = \{(10\.\d{4,}/\S+)\}", entry, re.M)
        if doi and "arXiv" in doi[1]:
            assert doi[1].rpartition("arXiv.")[2] == re.search(r"eprint = \{(.+)\}", entry)[1]
    assert [name for name, doi in found.items() if not doi] == ["zhu2023slides"]
    dois = [doi[1] for doi in found.values() if doi]
    assert len(dois) == len(set(dois)) > 15


def test_the_package_alone_is_loosely_bound():
    assert not [d for d in PROJECT["project"]["dependencies"] if "==" in d]
    assert "torch==2.13.0" in text("requirements.txt") and "index-url" not in text("requirements.txt")
    import spikenb

    assert spikenb.__version__ == PROJECT["project"]["version"]


def test_the_science_does_not_import_the_book():
    for path in (ROOT / "spikenb").rglob("*.py"):
        if "book" not in path.relative_to(ROOT / "spikenb").parts[0]:
            assert not re.search(r"^\s*(from|import) .*\bbook\b", path.read_text("utf-8"), re.M), path


def test_arrows_run_one_way():
    """design: problem < descent, curvature; measure is NumPy on what a run recorded."""
    for path in (ROOT / "spikenb/measure").glob("*.py"):
        assert "torch" not in path.read_text("utf-8")
    below = {"problem.py": {"_checks"}, "networks.py": {"_checks"}, "data.py": {"_checks"}}
    for name, allowed in below.items():
        imported = set(re.findall(r"^from \. import (\w+)|^from \.(\w+)", text(f"spikenb/{name}"), re.M))
        assert {a or b for a, b in imported} <= allowed, name


def test_lint():
    ruff = pytest.importorskip("ruff", reason="ruff is for pre-commit")
    done = subprocess.run([sys.executable, "-m", ruff.__name__, "check", ROOT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_public_function_has_a_docstring():
    import inspect

    from spikenb import curvature, data, descent, downloads, networks, problem
    from spikenb.book import claims, classroom, cli, exercises, labs, plots, sliders
    from spikenb.measure import landscape, spikes

    science = (curvature, data, descent, downloads, networks, problem, landscape, spikes)
    for module in (*science, claims, classroom, cli, exercises, labs, plots, sliders):
        assert module.__doc__
        for name, item in vars(module).items():
            if not name.startswith("_") and getattr(item, "__module__", "") == module.__name__:
                assert inspect.getdoc(item), f"{module.__name__}.{name}"
