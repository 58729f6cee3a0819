"""Campaigns: a chapter's own cells, run over seeds and scales, with every result kept.

A job is a notebook, a seed, a scale and a device. Papermill runs it through the chapter's `parameters` cell, joblib
spreads the jobs over processes, a Dask cluster or Ray, and each finished job is a small JSON file in the store.
A file is current as long as its key is: a digest of the code cells, of the package's modules that they import
(without docstrings), of the claims' criteria, of the parameters and of the data packs. The board reads the files.
"""

import argparse
import ast
import hashlib
import importlib.util
import json
import os
import platform
import re
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .. import _checks
from . import claims

SCALES = ("laptop", "paper")
BACKENDS = ("loky", "dask", "ray")
VERSIONS = ("torch", "numpy", "scipy", "numba", "spikenb")


class StoreError(OSError):
    """The store cannot be written; what was in it is intact."""


@dataclass(frozen=True)
class Job:
    """One run of one notebook; `parameters` are what its `parameters` cell takes."""

    notebook: Path
    parameters: tuple

    @property
    def name(self):
        """notebook/scale-seed…, the file in the store without its ending."""
        values = dict(self.parameters)
        extra = "".join(f"-{k}={v}" for k, v in values.items() if k not in ("SEED", "SCALE", "DEVICE"))
        device = "" if values["DEVICE"] == "cpu" else f"-{values['DEVICE'].replace(':', '')}"
        return f"{self.notebook.stem}/{values['SCALE']}-seed{values['SEED']}{device}{extra}"


def jobs(notebooks, seeds, scale="laptop", device="cpu", **parameters):
    """Every notebook with every seed, as a list of `Job`."""
    _checks.choice("scale", scale, SCALES)
    found = [Path(n).resolve() for n in notebooks]  # a worker may stand in another folder
    for path in found:
        if not path.is_file():
            raise ValueError(f"notebooks: there is no {path}")
    if not found or not list(seeds):
        raise ValueError("notebooks and seeds must each hold one at least")
    extra = tuple(sorted(parameters.items()))
    return [Job(n, (("SEED", s), ("SCALE", scale), ("DEVICE", device), *extra)) for n in found for s in seeds]


# ---- what a result depends on ----


def key(job, result=None):
    """The digest of everything that the job's result depends on, 64 hexadecimal digits.

    A data pack counts by its digest. Of a stored `result` the packs that are not at hand here are taken as they were
    then: without the data nobody can say that it has changed.
    """
    cells = json.loads(job.notebook.read_text(encoding="utf-8"))["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    parts = [_plain(source) for source in code]
    parts += [f"{name} {_plain(text)}" for name, text in sorted(_modules(code).items())]
    for id, row in claims.table().items():
        if any(f'"{id}"' in source for source in code):
            parts.append(json.dumps([id, row.get("tests"), row.get("part"), row.get("count")], sort_keys=True))
    then = (result or {}).get("data") or {}
    packs = {name: then.get(name) if digest is None else digest for name, digest in _packs(code).items()}
    parts += [json.dumps(job.parameters), json.dumps(packs)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _parse(source):
    return ast.parse(re.sub(r"^\s*[%!].*$", "pass", source, flags=re.M))


@cache  # the board asks for the same modules once for each of its results
def _plain(source):
    """A source as text, without docstrings, comments, layout and line numbers."""
    tree = _parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(getattr(body[0], "value", None), ast.Constant) and isinstance(body[0].value.value, str):
                node.body = body[1:]
    return ast.dump(tree)


@cache
def _imports(source, package):
    """The names that a source of a package may import: modules, and what is taken from them."""
    names = []
    for node in ast.walk(_parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package or None)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


def _modules(code):
    """The package's modules that the sources import, and those that these import: {name: its text}.

    Not `downloads`: what it fetches is verified by digests, and is the same whatever its code does. Not `plots`: its
    functions draw and return nothing, so that a colour changes no result.
    """
    found, waiting = {}, [(source, "") for source in code]
    while waiting:
        for name in _imports(*waiting.pop()):
            path = _source(name)
            if path and name not in found and path.name not in ("downloads.py", "plots.py"):
                found[name] = path.read_text("utf-8")
                inside = name if path.name == "__init__.py" else name.rpartition(".")[0]
                waiting.append((found[name], inside))
    return found


def _source(name):
    """The file of a module of this package, or None."""
    root = Path(__file__).resolve().parent.parent
    if name.split(".")[0] != root.name:
        return None
    path = root.joinpath(*name.split(".")[1:])
    return next((p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()), None)


def _packs(code):
    """The data packs that the code names, each with its digest, or None where it is not at hand."""
    names = sorted(set(re.findall(r"""data\.load\(\s*["'](\w+)""", "\n".join(code))))
    folder = os.environ.get("SPIKENB_DATA")
    paths = {name: Path(folder or "", f"{name}.npz") for name in names}
    return {n: hashlib.sha256(p.read_bytes()).hexdigest() if folder and p.is_file() else None for n, p in paths.items()}


# ---- the store ----


def read(store, name):
    """A job's stored result, or None if there is none that can be read."""
    try:
        return json.loads(Path(store, f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write(store, name, result):
    """Write a result in one move: the file is there whole, or not at all."""
    path, temporary = Path(store, f"{name}.json"), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False, encoding="utf-8") as file:
            temporary = Path(file.name)
            file.write(json.dumps(result, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            temporary.unlink(missing_ok=True)
        raise StoreError(
            f"store {store} cannot be written ({error.strerror or error}); its results are intact"
        ) from error


def state(store, job):
    """ "done", "failed", "stale" or "missing"."""
    result = read(store, job.name)
    if result is None:
        return "missing"
    return result["status"] if result["key"] == key(job, result) else "stale"


# ---- running ----


def run_job(job, wanted, threads=1, timeout=600):
    """Run one job in a kernel of its own; its result as JSON has it. An error in the notebook is a result too.

    A kernel that dies, or does not answer for `timeout` seconds in one cell, is tried once more: now and then a
    kernel's answer is lost, and waiting for it would hold the campaign for ever.
    """
    held = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads)
    )
    os.environ.update(held)
    result = {"key": wanted, "notebook": job.notebook.name, "parameters": dict(job.parameters), "status": "done"}
    start = time.monotonic()
    result |= _execute(job, timeout, last=False) or _execute(job, timeout, last=True)
    result["seconds"] = round(time.monotonic() - start, 1)
    result["versions"] = {"python": platform.python_version()} | {n: v for n in VERSIONS if (v := _version(n))}
    result["data"] = _packs(["".join(c["source"]) for c in json.loads(job.notebook.read_text("utf-8"))["cells"]])
    return result


def _execute(job, timeout, last):
    """The claims of one execution, with its error if it had one; None if it is worth another try."""
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    # sockets of files, where there are any: two kernels that start at once cannot take the same port
    transport = Config() if os.name == "nt" else Config({"KernelManager": {"transport": "ipc"}})
    # a cell for the reader at the controls computes nothing, and nbclient can hang on its widget's output
    notebook = json.loads(job.notebook.read_text(encoding="utf-8"))
    notebook["cells"] = [c for c in notebook["cells"] if "remove-output" not in c["metadata"].get("tags", ())]
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "source.ipynb"), Path(folder, "executed.ipynb")
        source.write_text(json.dumps(notebook), encoding="utf-8")
        options = dict(kernel_name="python3", cwd=folder, progress_bar=False, log_output=False)
        options |= dict(config=transport, start_timeout=120, execution_timeout=timeout)
        failed = {}
        try:
            papermill.execute_notebook(str(source), str(output), dict(job.parameters), **options)
        except PapermillExecutionError as error:
            trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
            failed = {"status": "failed", "error": f"{error.ename}: {error.evalue}", "traceback": trace}
        except Exception as error:  # the kernel died, did not answer, or would not start
            if not last:
                return None
            first_line = (str(error).splitlines() or [""])[0]
            failed = {"status": "failed", "error": f"{type(error).__name__}: {first_line}", "traceback": str(error)}
        if not output.is_file():
            return failed
        raw = claims.metrics(output)  # papermill writes after each cell: what was settled before an error is kept
        return failed | {"claims": [row | raw[row["id"]] for row in claims.stored(output)]}


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def run(todo, store, workers=None, backend="loky", scheduler=None, timeout=600, progress=True):
    """Run what is missing or stale of a list of jobs, and write each result as it comes.

    Parameters
    ----------
    todo : list of Job
    store : path
    workers : int, optional
        How many jobs at once; as many as there are cores. Each gets its share of the cores as threads.
    backend : {"loky", "dask", "ray"}
        joblib's own. "dask" and "ray" take the address of a running cluster in `scheduler`.

    timeout : float
        Seconds that one cell may take.

    Returns
    -------
    dict from each state to the number of jobs that are in it at the end.

    A worker that is killed does not end the campaign: the jobs it had are given out again. After three such
    deaths without a result in between, RuntimeError.
    """
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    _checks.choice("backend", backend, BACKENDS)
    cores = os.cpu_count() or 1
    workers = _checks.count("workers", workers or cores)
    _check_writable(store)
    keys = {job: key(job) for job in todo}
    deaths = 0
    with tqdm(total=len(todo), desc="campaign", unit="job", disable=not progress) as bar, _client(backend, scheduler):
        while open_jobs := [job for job in todo if not _finished(store, job, keys[job])]:
            bar.update(len(todo) - len(open_jobs) - bar.n)
            try:
                with parallel_config(backend=backend, n_jobs=workers):
                    calls = (delayed(_named)(job, keys[job], max(1, cores // workers), timeout) for job in open_jobs)
                    for name, result in Parallel(return_as="generator_unordered")(calls):
                        write(store, name, result)
                        deaths = 0
                        bar.update()
                break
            except TerminatedWorkerError:
                deaths += 1
                if deaths == 3:
                    raise RuntimeError("three workers died without a result in between; is memory short?") from None
    states = [state(store, job) for job in todo]
    return {name: states.count(name) for name in ("done", "failed", "stale", "missing")}


def _named(job, *how):
    return job.name, run_job(job, *how)


def _finished(store, job, wanted):
    result = read(store, job.name)
    return bool(result) and result["status"] == "done" and result["key"] == wanted


def _client(backend, scheduler):
    """What joblib needs to know of a running cluster."""
    if backend == "dask":
        from dask.distributed import Client

        return Client(scheduler)
    if backend == "ray":
        import ray
        from ray.util.joblib import register_ray

        ray.init(address=scheduler, ignore_reinit_error=True)
        register_ray()
    return nullcontext()


def _check_writable(store):
    try:
        Path(store).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=store):
            pass
    except OSError as error:
        raise StoreError(f"store {store} cannot be written ({error.strerror or error})") from error


# ---- what the board shows ----


def summary(store, notebooks):
    """What the store says of each claim, and which jobs failed.

    Returns ({id: {scale: row}}, [(job name, error, current)]). A row has `verdicts`, {verdict: count} over the
    current results; `spread`, {metric: (least, median, most)} over their first runs; and `stale`, how many results
    are out of date and left out. What a failed job had settled before its error counts.
    """
    found, failed = {}, []
    for notebook in map(Path, notebooks):
        for path in sorted(Path(store, notebook.stem).glob("*.json")):
            result = read(store, f"{notebook.stem}/{path.stem}")
            if result is None:
                continue
            current = result["key"] == key(Job(notebook, tuple(_ordered(result["parameters"]))), result)
            if result["status"] == "failed":
                failed.append((f"{notebook.stem}/{path.stem}", result["error"], current))
            for claim in result.get("claims", ()):
                scale = result["parameters"]["SCALE"]
                row = found.setdefault(claim["id"], {}).setdefault(scale, {"verdicts": {}, "stale": 0, "first": []})
                if not current:
                    row["stale"] += 1
                    continue
                row["verdicts"][claim["verdict"]] = row["verdicts"].get(claim["verdict"], 0) + 1
                row["first"].append(claim["measured"][0])
    for scales in found.values():
        for row in scales.values():
            firsts = row.pop("first")
            columns = {m: [f[m] for f in firsts if f.get(m) is not None] for m in (firsts[0] if firsts else ())}
            row["spread"] = {m: tuple(np.quantile(v, [0, 0.5, 1]).tolist()) for m, v in columns.items() if v}
    return found, failed


def _ordered(parameters):
    first = [(name, parameters[name]) for name in ("SEED", "SCALE", "DEVICE")]
    return [*first, *sorted((k, v) for k, v in parameters.items() if k not in ("SEED", "SCALE", "DEVICE"))]


# ---- the command ----


def seeds_of(text):
    """The seeds of a text like "0-9" or "0,3,7-9", as a list."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(f"seeds must look like 0-9 or 0,3,7-9, not {text!r}")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def parser():
    """The command line of `spikenb`."""
    top = argparse.ArgumentParser(prog="spikenb", description="The tools of the book on why training losses spike.")
    command = top.add_subparsers(dest="command", required=True).add_parser(
        "campaign", help="run chapters over seeds and keep every result"
    )
    command.add_argument("notebooks", nargs="*", type=Path, help="notebooks; all chapters in book/ if none is named")
    command.add_argument(
        "--only", nargs="+", default=[], metavar="NN", help="only chapters that start so: --only 01 03"
    )
    command.add_argument("--seeds", default="0-9", help="such as 0-9 or 0,3,7-9")
    command.add_argument("--scale", default="laptop", choices=SCALES)
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps")
    command.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="further parameters of the notebooks"
    )
    command.add_argument("--store", default="results", type=Path, help="the folder of results")
    command.add_argument("--workers", type=int, help="jobs at once; as many as there are cores")
    command.add_argument("--timeout", type=float, default=600, help="seconds that one cell may take (600)")
    command.add_argument("--backend", default="loky", choices=BACKENDS, help="joblib's backend")
    command.add_argument("--scheduler", help="address of a running Dask or Ray cluster")
    command.add_argument("--dry-run", action="store_true", help="list the jobs and their states, and run nothing")
    return top


def main(arguments=None):
    """The console command `spikenb`; its exit status is 0 if every job is done, 1 if one failed, 2 for bad input."""
    options = parser().parse_args(arguments)
    try:
        chosen = options.notebooks or sorted(Path("book").glob("[0-9]*.ipynb"))
        if options.only:
            chosen = [n for n in chosen if n.stem.startswith(tuple(options.only))]
        extra = dict(_pair(text) for text in options.set)
        todo = jobs(chosen, seeds_of(options.seeds), options.scale, options.device, **extra)
        if options.dry_run:
            for job in todo:
                print(f"{state(options.store, job):8} {job.name}")
            return 0
        how = options.workers, options.backend, options.scheduler, options.timeout
        counts = run(todo, options.store, *how)
    except KeyboardInterrupt:
        print("interrupted; what was done is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    except (ValueError, StoreError, RuntimeError) as error:
        print(f"spikenb campaign: {error}", file=sys.stderr)
        return 2
    for job in todo:
        if state(options.store, job) == "failed":
            print(f"failed: {job.name}: {read(options.store, job.name)['error']}", file=sys.stderr)
    print(", ".join(f"{count} {name}" for name, count in counts.items() if count))
    return int(counts["done"] < len(todo))


def _pair(text):
    """A parameter's name and value of a text like WIDTH=40; what is no Python literal is a string."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise ValueError(f"set must look like NAME=VALUE, not {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


if __name__ == "__main__":
    sys.exit(main())
