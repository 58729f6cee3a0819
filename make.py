#!/usr/bin/env python3
"""Build, test and edit the book; every command first makes its own environment in .venv.

python3 make.py book              build the pages and open them
python3 make.py test              run all tests
python3 make.py notebooks [X.md]  update and execute the notebooks (of these chapters) from their .md
"""

import argparse
import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
import webbrowser
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
INDEX = ROOT / "_build/html/index.html"


EXECUTE = """
import sys, nbformat, nbclient
notebook = nbformat.read(sys.argv[1], as_version=4)
client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": "book"}})
client.comm_open_handlers.clear()  # nbclient can hang on the output of widgets, which no page shows
client.execute()
nbformat.write(notebook, sys.argv[1])
"""


def environment():
    """Make .venv, or bring it up to date if what it is made from has changed since."""
    if sys.version_info < (3, 11):  # noqa: UP036, an old Python must be told
        sys.exit(f"The book needs Python 3.11 or newer; this is {sys.version.split()[0]}.")
    sources = [ROOT / "requirements.txt", ROOT / "pyproject.toml"]
    stamp, state = VENV / "made-from", hashlib.sha256(b"".join(s.read_bytes() for s in sources)).hexdigest()
    if stamp.exists() and stamp.read_text() == state:
        return
    print("Setting up .venv: a few minutes, once.", flush=True)
    if not PYTHON.exists():
        shutil.rmtree(VENV, ignore_errors=True)  # one that broke off half-way
        try:
            venv.create(VENV, with_pip=True)
        except subprocess.CalledProcessError:
            sys.exit("Python's venv module is incomplete here; on Debian and Ubuntu: apt install python3-venv")
    run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt")
    stamp.write_text(state)


def run(*arguments):
    """Run the environment's Python on these arguments, in the repository; leave with its code if it fails."""
    path = f"{PYTHON.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    code = subprocess.run([PYTHON, *arguments], cwd=ROOT, env={**os.environ, "PATH": path}).returncode
    if code:
        sys.exit(code)


def book(arguments):
    jupyter_book = "from jupyter_book.cli.main import main; main()"
    run("-c", jupyter_book, "build", ".", "-n", "-W", "--keep-going")
    print(f"The book is at {INDEX.as_uri()}")
    if not arguments.no_open:
        webbrowser.open(INDEX.as_uri())


def test(arguments):
    run("-m", "pytest", "-n", "2", *arguments.rest)


def notebooks(arguments):
    pages = [Path(p).resolve() for p in arguments.rest] or sorted(ROOT.glob("book/[0-9]*.md"))
    for page in pages:
        target = page.with_suffix(".ipynb")
        run("-m", "jupytext", "--quiet", "--to", "ipynb", "--output", str(target), str(page))
        run("-c", EXECUTE, str(target))
        target.write_text(settled(target.read_text(encoding="utf-8")), encoding="utf-8")
    (ROOT / "assets/spike.png").write_bytes(first_figure(ROOT / "book/02_slas_toy.ipynb"))


def first_figure(notebook):
    """The first figure that a notebook stored, as PNG; the README shows one."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = (o for cell in cells for o in cell.get("outputs", ()))
    return base64.b64decode(next(o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})))


def settled(text):
    """A notebook, its prints joined, without what changes from run to run: time stamps, widgets, progress bars, ids."""
    notebook = json.loads(text)
    notebook["metadata"] = {"kernelspec": notebook["metadata"]["kernelspec"]}
    for number, cell in enumerate(notebook["cells"]):
        cell["id"] = f"cell-{number}"
        cell["metadata"].pop("execution", None)
        if cell["cell_type"] == "code":
            kept, live = [], "remove-output" in cell["metadata"].get("tags", ())
            for output in [] if live else cell["outputs"]:
                if output.get("name") == "stderr" or any("widget" in kind for kind in output.get("data", ())):
                    continue
                if kept and output.get("name") == kept[-1].get("name") == "stdout":
                    kept[-1]["text"] += output["text"]
                else:
                    kept.append(output)
            cell["outputs"] = kept
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["book", "test", "notebooks"])
    parser.add_argument("--no-open", action="store_true", help="build the book without opening it")
    arguments, arguments.rest = parser.parse_known_args()
    environment()
    {"book": book, "test": test, "notebooks": notebooks}[arguments.command](arguments)


if __name__ == "__main__":
    main()
