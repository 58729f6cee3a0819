"""Contestants in processes of their own, single-threaded, and what is asked of them: an answer, a time, their memory.

Both ends of the pipe, and the file of results. Only NumPy is needed, so that a contestant may live in another
environment.
"""

import ctypes
import gc
import importlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results/benchmarks"
VERSIONS = ("spikenb", "torch", "numpy", "scipy", "numba", "jax", "PyHessian", "curvlinops-for-pytorch")
VERSIONS += ("hessian-eigenthings", "neural-tangents")


def threads(count):
    """The environment that holds every library to so many threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    xla = f"--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads={count}"
    return dict.fromkeys(names, str(count)) | {"XLA_FLAGS": xla, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}


class Contestant:
    """The asking end: a process that runs one contestant of one section."""

    def __init__(self, name, section, python=sys.executable, script="contestants.py", cores=1):
        self.name, self.problem = name, None
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        try:
            self.process = subprocess.Popen(
                [str(python), str(ROOT / "benchmarks" / script), section, name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=os.environ | threads(cores) | {"PYTHONPATH": path},
            )
        except OSError:
            self.process, self.problem = None, "not installed"

    def ask(self, do, **more):
        """What it replies, a dict; None once it has failed, with the reason in `problem`."""
        if self.problem:
            return None
        try:
            self.process.stdin.write(json.dumps({"do": do} | more) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        reply = json.loads(line) if line else {"problem": "failed: the process ended"}
        self.problem = reply.get("problem")
        return None if self.problem else reply

    def close(self):
        if self.process:
            self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()


def serve(build):
    """The replying end: `build(section, name, task)` gives the work, a function that returns a dict of arrays."""
    section, name = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply
    work = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "build":
                work = None
                work = build(section, name, request["task"])
                reply = {"versions": {v: found for v in VERSIONS if (found := version_of(v))}}
            elif request["do"] == "answer":
                start = time.process_time()
                answer = work()
                reply = {"seconds": time.process_time() - start}
                np.savez(request["file"], **answer)
                del answer
            elif request["do"] == "time":
                start = time.process_time(), time.perf_counter()
                for _ in range(request["calls"]):
                    work()
                spent = time.process_time() - start[0], time.perf_counter() - start[1]
                reply = {"seconds": spent[0] / request["calls"], "wall": spent[1] / request["calls"]}
            else:
                reply = _memory(work)
        except ImportError as error:
            missing = isinstance(error, ModuleNotFoundError)
            reply = {"problem": "not installed" if missing else f"failed: {_first_line(error)}"}
        except Exception as error:
            reply = {"problem": f"failed: {type(error).__name__}: {_first_line(error)}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _first_line(error):
    return (str(error).splitlines() or [""])[0][:120]


def version_of(name):
    """The version of an installed distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return getattr(importlib.import_module(name), "__version__", None) if name == "spikenb" else None


def _memory(work):
    """The peak of resident memory while the work is done, and how far above the start it is, in MB."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # give back what earlier calls have freed
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    except (OSError, AttributeError, TypeError):
        return {"extra_mb": None, "peak_mb": None}
    work()
    peak = _status("VmHWM")
    return {"extra_mb": peak - before, "peak_mb": peak}


def _status(key):
    return int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6


def provenance(**more):
    """Where and when numbers were measured."""
    return {
        "date": date.today().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
    } | more


def _cpu():
    try:
        return re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        return platform.processor() or platform.machine()


def write(name, found):
    """Write results/benchmarks/<name>.json."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_rounded(found), indent=1, ensure_ascii=False) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")


def _rounded(value):
    """Floats to four digits; null for what is not finite."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.4g}") if np.isfinite(value) else None
    return value
