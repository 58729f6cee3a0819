#!/usr/bin/env python3
"""Build, test and edit the book; every command first makes its environment, .venv; versions and benchmark
have folders of their own.

python3 make.py book              build the pages and open them
python3 make.py pdf               build the pages and print them, _build/book.pdf (with an installed Chromium)
python3 make.py zip               build the pages and pack them, _build/book.zip, to be read without a network
python3 make.py test              run all tests
python3 make.py versions colab    run every notebook and solved lab with Colab's versions, in an empty folder;
                                  "versions oldest": with the lower bounds of pyproject.toml, which needs
                                  python3.11 (each takes 6 GB and 10 minutes)
python3 make.py notebooks [X.md]  update and execute the notebooks (of these chapters) from their .md;
                                  one that shows a data pack is left alone where the pack is missing
python3 make.py labs              make the course labs, _build/labs: student, solved and grader (with nbgrader)
python3 make.py offline           pack the student labs, the package and data, _build/spikenb-offline.zip, for a room
                                  without a network; --packs FOLDER puts in your own data packs
python3 make.py benchmark         run the package beside its peers (about an hour; --only agop for a part)
"""

import argparse
import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import webbrowser
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PEERS, NEURAL_TANGENTS = ROOT / ".venv-peers", ROOT / ".venv-neural-tangents"
INDEX = ROOT / "_build/html/index.html"


EXECUTE = """
import sys, nbformat, nbclient
notebook = nbformat.read(sys.argv[1], as_version=4)
client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": "book"}})
client.extra_arguments = ["--IPKernelApp.extra_extensions=spikenb.book.numbers"]  # figures carry their numbers
client.comm_open_handlers.clear()  # nbclient can hang on the output of widgets, which no page shows
client.execute()
nbformat.write(notebook, sys.argv[1])
"""


SHOW_VERSIONS = """
import platform, re, sys
from importlib.metadata import version
found = [f"{name} {version(name)}" for name in (re.split("[=<>]", pin)[0] for pin in sys.argv[1:])]
print(f"Python {platform.python_version()};", ", ".join(found), flush=True)
"""


def environment():
    """Make .venv, or bring it up to date if what it is made from has changed since."""
    wanted = [["-r", "requirements.txt"], ["--no-deps", "-r", "tests/requirements.txt"]]
    environment_in(VENV, ["requirements.txt", "tests/requirements.txt", "pyproject.toml"], wanted)


def environment_in(folder, sources, wanted, python=sys.executable):
    """Make the environment, or bring it up to date if `sources` have changed since: one pip installation a list in
    `wanted`. The first must succeed; the others may fail, are reported, and are tried again next time."""
    if sys.version_info < (3, 11):  # noqa: UP036, an old Python must be told
        sys.exit(f"The book needs Python 3.11 or newer; this is {sys.version.split()[0]}.")
    stamp = folder / "made-from"
    state = hashlib.sha256(b"".join((ROOT / source).read_bytes() for source in sources)).hexdigest()
    if stamp.exists() and stamp.read_text() == state:
        return
    print(f"Setting up {folder.name}: a few minutes, once.", flush=True)
    if not python_of(folder).exists():
        shutil.rmtree(folder, ignore_errors=True)  # one that broke off half-way
        try:
            subprocess.run([python, "-m", "venv", folder], check=True)
        except subprocess.CalledProcessError:
            sys.exit("Python's venv module is incomplete here; on Debian and Ubuntu: apt install python3-venv")
    failed = [names for names in wanted if pip(folder, names)]
    for names in failed:
        print(f"Could not be installed: {' '.join(names)}", flush=True)
    if wanted[0] in failed:
        sys.exit(1)
    if not failed:
        stamp.write_text(state)


def python_of(folder):
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def pip(folder, names):
    options = ["--quiet", "--disable-pip-version-check"]
    return subprocess.run([python_of(folder), "-m", "pip", "install", *options, *names], cwd=ROOT).returncode


def run(*arguments, folder=VENV, cwd=ROOT):
    """Run the environment's Python on these arguments, in the repository; leave with its code if it fails."""
    python = python_of(folder)
    path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    code = subprocess.run([python, *arguments], cwd=cwd, env={**os.environ, "PATH": path}).returncode
    if code:
        sys.exit(code)


def book(arguments):
    jupyter_book = "from jupyter_book.cli.main import main; main()"
    run("-c", jupyter_book, "build", ".", "-n", "-W", "--keep-going")
    print(f"The book is at {INDEX.as_uri()}")
    if not arguments.no_open:
        webbrowser.open(INDEX.as_uri())


def printed(arguments):
    """The pages as one PDF or one zip."""
    arguments.no_open = True
    book(arguments)
    target = f"_build/book.{arguments.command}"
    run("-m", "spikenb.book.printing", arguments.command, str(INDEX.parent), target)


def test(arguments):
    """Two workers, and as many threads as leave each its share of the cores: more only wait for one another."""
    share_the_cores()
    run("-m", "pytest", "-n", "2", *arguments.rest)


def share_the_cores():
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, str(max(1, (os.cpu_count() or 2) // 2)))


def versions(arguments):
    """Every notebook and solved lab where nothing but the package and these versions is installed."""
    if arguments.rest not in (["colab"], ["oldest"]):
        sys.exit('versions: name one, "colab" or "oldest"')
    (name,) = arguments.rest
    colab = "tests/requirements-colab.txt"
    pins, pythons = (lines(colab), ("3.13", "3.12")) if name == "colab" else (oldest(), ("3.11",))
    python = python_near(*pythons) or (sys.executable if name == "colab" else sys.exit("the oldest need python3.11"))
    folder = ROOT / f".venv-{name}-{Path(python).name}"
    runner = [line for line in lines("requirements.txt") if line.startswith(("pytest", "nbval"))]
    environment_in(folder, ["pyproject.toml", "requirements.txt", colab], [[*pins, *runner]], python)
    with tempfile.TemporaryDirectory() as built:
        run("-c", "import sys; from spikenb.book.classroom import wheel_in; wheel_in(*sys.argv[1:])", built, str(ROOT))
        if pip(folder, ["--no-deps", "--force-reinstall", *map(str, Path(built).glob("*.whl"))]):
            sys.exit(1)
    run("-c", SHOW_VERSIONS, *pins, folder=folder)
    share_the_cores()
    os.environ["TQDM_DISABLE"] = "1"
    with tempfile.TemporaryDirectory() as empty:
        for path in [*ROOT.glob("book/[0-9]*.ipynb"), *ROOT.glob("book/why_*.ipynb")]:
            shutil.copy(path, empty)
        run("-m", "spikenb.book.classroom", "solved", "labs", empty)
        options = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300", "--dist=loadfile"]
        run("-m", "pytest", "-n", "2", *options, folder=folder, cwd=empty)


def oldest():
    """What the package needs to run and to speed it up, each in the oldest version that pyproject.toml allows."""
    import tomllib  # an older Python must get as far as to be told that it is too old

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["fast"], *extras["campaign"]]
    return [line.split(",")[0].replace(">=", "==") for line in wanted]


def python_near(*versions):
    """The first of these Pythons that runs here, perhaps the one that runs this, or None."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" in versions[:1]:
        return sys.executable
    for version in versions:
        found = shutil.which(f"python{version}")
        if found and not subprocess.run([found, "--version"], capture_output=True).returncode:
            return found
    return None


def notebooks(arguments):
    pages = [Path(p).resolve() for p in arguments.rest] or [
        *sorted(ROOT.glob("book/[0-9]*.md")),
        *ROOT.glob("book/why_*.md"),
    ]
    for page in pages:
        target = page.with_suffix(".ipynb")
        if target.exists() and (packs := missing_packs(page.read_text(encoding="utf-8"))):
            print(f"{target.name} is left as it is: its outputs are those of {', '.join(packs)}, and SPIKENB_DATA "
                  f"names no folder that holds {', '.join(f'{name}.npz' for name in packs)}.")  # fmt: skip
            continue
        run("-m", "jupytext", "--quiet", "--to", "ipynb", "--output", str(target), str(page))
        run("-c", EXECUTE, str(target))
        target.write_text(settled(target.read_text(encoding="utf-8")), encoding="utf-8")
        for kilobytes in heavy(target.read_text(encoding="utf-8")):
            print(f"{target.name}: the numbers behind a figure take {kilobytes:.0f} KB; could it show fewer points?")
    (ROOT / "assets/spike.png").write_bytes(first_figure(ROOT / "book/02_slas_toy.ipynb"))


def labs(arguments):
    """The labs in every form, and the student notebooks where Colab opens them, labs/student."""
    run("-m", "spikenb.book.classroom", "labs", "labs", "_build/labs")


def offline(arguments):
    run("-m", "spikenb.book.classroom", "offline", "labs", "_build/spikenb-offline.zip", *arguments.rest)


def benchmark(arguments):
    """The peers one by one, so that one that cannot be installed leaves the others; the oldest by itself."""
    torch = next(line for line in lines("requirements.txt") if line.startswith("torch=="))
    sources = ["requirements.txt", "benchmarks/requirements-peers.txt", "pyproject.toml"]
    peers = [[line, torch] for line in lines("benchmarks/requirements-peers.txt")]
    environment_in(PEERS, sources, [[torch, "-e", ".[fast]"], *peers])
    older = "benchmarks/requirements-neural-tangents.txt"
    environment_in(NEURAL_TANGENTS, [older], [["pip"], ["-r", older]])
    if not arguments.rest:
        run("benchmarks/two_layer.py", folder=PEERS)
    run("benchmarks/core.py", "--neural-tangents", str(python_of(NEURAL_TANGENTS)), *arguments.rest, folder=PEERS)


def lines(name):
    """A requirements file's requirements."""
    found = (line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return [line for line in found if line]


def missing_packs(text):
    """The data packs that a chapter loads by name and that are not in $SPIKENB_DATA, in order.

    Without them its cells run on other data; what is stored of a run with them must not be overwritten so.
    """
    named = set(re.findall(r"""data\.load\(\s*["'](\w+)""", text)) - {"digits"}
    folder = os.environ.get("SPIKENB_DATA")
    return sorted(name for name in named if not (folder and Path(folder, f"{name}.npz").is_file()))


def first_figure(notebook):
    """The first figure that a notebook stored, as PNG; the README shows one."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = (o for cell in cells for o in cell.get("outputs", ()))
    return base64.b64decode(next(o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})))


def heavy(text, most=1000):
    """The kilobytes that a notebook keeps of the numbers behind a figure, of each where it is more than `most`."""
    data = [o.get("data", {}) for cell in json.loads(text)["cells"] for o in cell.get("outputs", ())]
    sizes = [len(numbers) / 1e3 for d in data for kind, numbers in d.items() if "spikenb.csv" in kind]
    return [size for size in sizes if size > most]


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


COMMANDS = {"book": book, "pdf": printed, "zip": printed, "test": test, "versions": versions, "notebooks": notebooks,
            "labs": labs, "offline": offline, "benchmark": benchmark}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--no-open", action="store_true", help="build the book without opening it")
    arguments, arguments.rest = parser.parse_known_args()
    if arguments.command != "benchmark":
        environment()
    COMMANDS[arguments.command](arguments)


if __name__ == "__main__":
    main()
