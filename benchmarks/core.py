"""spikenb's curvature, tangent kernel and AGOP beside their peers, on the same work, single-threaded.

    python3 make.py benchmark              makes the peers' environments, then runs this
    python benchmarks/core.py              in an environment with requirements-peers.txt
    python benchmarks/core.py --only agop  one section; the others keep what results/benchmarks/core.json has

Every contestant is a process of its own that holds the same data. Its answer is compared with a reference in double
precision before anything is timed. Times are CPU time of one thread, the least of a few repeats, contestants
interleaved; memory is the peak above what the process held when it began. A peer that is not installed is reported
as such. A wrong answer is marked, and its time is no measure of anything.
"""

import argparse
import json
import math
import sys
import tempfile
from functools import partial
from pathlib import Path

import cases
import contest
import numpy as np
import torch
from contestants import SECTIONS

from spikenb import curvature

torch.set_num_threads(1)  # of the references; the contestants are told so by their environment
NEURAL_TANGENTS = contest.ROOT / ".venv-neural-tangents/bin/python"
NT = "neural-tangents"
LONG = 20.0  # seconds of CPU time after which a contestant has had its repeats
SHORT = 0.2  # work that is done sooner is done several times over


class Contest:
    """The contestants of a section, alive from one task to the next."""

    def __init__(self, section, names, options):
        self.options, self.folder = options, tempfile.TemporaryDirectory()
        self.all = [self._contestant(name, section) for name in names if name in options.names or not options.names]

    def _contestant(self, name, section):
        if name == NT:
            return contest.Contestant(name, section, self.options.neural_tangents, "with_neural_tangents.py")
        return contest.Contestant(name, section)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for contestant in self.all:
            contestant.close()
        self.folder.cleanup()

    def run(self, task, check, names=None, per=1, memory=False):
        """The rows of one table: all answers checked, then all timed in turn, then, if wanted, their memory.

        `check` takes an answer and returns its errors, with "wrong" among them; `per` divides the times.
        """
        task = {"tiny": self.options.tiny} | task
        rows, calls, spent = {}, {}, {}
        for contestant in self.all:
            if names and contestant.name not in names:
                continue
            row = rows[contestant.name] = {"contestant": contestant.name}
            path = Path(self.folder.name, "answer.npz")
            built = contestant.ask("build", task=task)
            done = built and contestant.ask("answer", file=str(path))
            if done:
                self.options.versions |= built["versions"]
                with np.load(path) as answer:
                    row |= check(answer)
                path.unlink()
                row["status"] = "wrong" if row.pop("wrong") else "right"
                calls[contestant.name], spent[contestant.name] = (
                    max(1, math.ceil(SHORT / max(done["seconds"], 1e-4))),
                    0,
                )
            else:
                row["status"], contestant.problem = contestant.problem, contestant.problem
            say(f"  {row['contestant']:34s} {row['status']}")
        if (own := rows.get("spikenb")) and own["status"] != "right":
            sys.exit(f"spikenb's own answer is not right: {own}")
        for _ in range(self.options.repeats):
            for contestant in self.all:
                name = contestant.name
                if name in calls and spent[name] < LONG and (reply := contestant.ask("time", calls=calls[name])):
                    spent[name] += reply["seconds"] * calls[name]
                    rows[name]["seconds"] = min(rows[name].get("seconds", math.inf), reply["seconds"] / per)
        for contestant in self.all if memory else ():
            if contestant.name in calls:
                rows[contestant.name] |= contestant.ask("memory") or {}
        own = rows.get("spikenb", {}).get("seconds")
        for row in rows.values():
            if own and "seconds" in row:
                row["ratio"] = row["seconds"] / own
        return list(rows.values())


def say(text):
    print(text, flush=True)


# ---- sections: each yields tables, a title and rows ----


def tracking(options):
    """λ1, and λ1 and λ2, at each of 20 successive steps of gradient descent."""
    with Contest("tracking", SECTIONS["tracking"], options) as contestants:
        for name in options.cases or (("tanh", "fcn") if options.tiny else cases.NAMES):
            case, thetas = _shared(name, options, contestants.folder)
            say(f"{name}: the reference, {len(case.thetas)} points of {case.fit.dim:,} parameters")
            exact = _references(case)
            for k in (1, 2):
                say(f"{name}, k = {k}")
                task = {"case": name, "k": k, "thetas": thetas}
                check = partial(_pairs_error, exact=exact, k=k)
                rows = contestants.run(task, check, per=len(case.thetas))
                yield {
                    "id": f"tracking-{name}-{k}",
                    "title": f"{TITLES[name]}, {PAIRS[k]}",
                    "per": "step",
                    "rows": rows,
                }


def _shared(name, options, folder):
    """A case, and the file with its θs, the same for every process."""
    case, path = cases.case(name, options.tiny), str(Path(folder.name, f"{name}.npy"))
    np.save(path, torch.stack(case.thetas).numpy())
    return case, path


TITLES = {
    "tanh": "Tanh net 1-20-1, 80 points, 61 parameters",
    "fcn": "FCN 3072-256×4-1, 128 points, 984,321 parameters",
    "cnn": "Two-layer CNN, 100 points, 41,418 parameters",
    "alexnet": "Small AlexNet, 200 points, 72,810 parameters",
}
PAIRS = {1: "one pair", 2: "two pairs"}


def _references(case):
    """At each step the first three eigenvalues and two eigenvectors of the Hessian, in double precision.

    From the dense matrix where it is small. Else by Lanczos to 1e-9, with a start of its own at the first step, and
    from then on the last step's vectors and a random one.
    """
    fit, found, vectors = case.fit.to(torch.float64), [], torch.zeros(case.fit.dim, 0, dtype=torch.float64)
    rng = np.random.default_rng(3)
    for theta in case.thetas:
        theta = theta.double()
        if fit.dim <= 100:
            values, dense = np.linalg.eigh(fit.hessian(theta).numpy())
            found.append((values[::-1][:3], dense[:, ::-1][:, :2]))
            continue
        start = torch.cat([vectors, torch.from_numpy(rng.standard_normal((fit.dim, 1)))], 1)
        pairs = curvature.lanczos(fit.hessian_operator(theta), start, 3, tol=1e-9, angle=0.01)
        vectors = pairs.vectors
        found.append((pairs.values, vectors[:, :2].numpy()))
    return found


def _pairs_error(answer, exact, k):
    """Worst errors over the steps: of the values in units of λ1, and of each in its own; the angle where the nearest
    other eigenvalue is further than 5% of λ1; and the products a step, with the first step and without."""
    errors, own, angles = [], [], []  # maxima are NumPy's, which keep a NaN
    for values, vectors, (true, true_vectors) in zip(answer["values"], answer["vectors"], exact, strict=True):
        off = abs(values - true[:k])
        errors.append(off / true[0])
        own.append(off / abs(true[:k]))
        for i in range(k):
            if min(abs(true[i] - true[j]) for j in range(len(true)) if j != i) > 0.05 * true[0]:
                v = vectors[:, i].astype(float)
                v /= np.linalg.norm(v)
                cosine = v @ true_vectors[:, i]
                sine = np.linalg.norm(v - cosine * true_vectors[:, i])
                angles.append(math.atan2(sine, abs(cosine)))
    products, error = answer["products"], np.max(errors)
    return {
        "error": error,
        "error_each": np.max(own),
        "angle": np.max(angles) if angles else None,
        "products": products.mean(),
        "products_warm": products[1:].mean(),
        "wrong": not error <= 1e-2,
    }


def spectrum(options):
    """All eigenvalues of the tanh net's Hessian."""
    with Contest("spectrum", SECTIONS["spectrum"], options) as contestants:
        case, thetas = _shared("tanh", options, contestants.folder)
        exact = np.stack([np.linalg.eigvalsh(case.fit.hessian(theta).numpy())[::-1] for theta in case.thetas])

        def check(answer):
            error = abs(answer["values"] - exact).max() / exact.max()
            return {"error": error, "wrong": not error <= 1e-9}

        say("all eigenvalues of the tanh net")
        rows = contestants.run({"thetas": thetas}, check, per=len(case.thetas))
        yield {"id": "spectrum", "title": f"{TITLES['tanh']}: all eigenvalues", "per": "Hessian", "rows": rows}


def _dense_kernel(fit, theta):
    """J Jᵀ in double precision from one backward pass a sample, parameter by parameter: slow and plain."""
    net, x, theta = fit.model, fit.x.double(), theta.double()
    kernel = torch.zeros(len(x), len(x), dtype=torch.float64)
    for name, shape in net.shapes.items():
        rows = torch.empty(len(x), shape.numel(), dtype=torch.float64)
        for i in range(len(x)):
            parts = {key: part.clone() for key, part in net.split(theta).items()}
            parts[name].requires_grad_()
            output = torch.func.functional_call(net.module, parts, (x[i : i + 1],))
            rows[i] = torch.autograd.grad(output.sum(), parts[name])[0].reshape(-1)
        kernel.addmm_(rows, rows.T)
    return kernel.numpy()


def flops(net, x):
    """What the kernel of n samples costs at least: a forward pass, a backward pass by activations, the weight
    gradients of convolutions, and the Gram matrices' lower triangles."""
    n, total, first, shapes = len(x), 0, True, []
    handles = [
        m.register_forward_hook(lambda m, i, o: shapes.append((m, o)))
        for m in net.module.modules()
        if hasattr(m, "weight")
    ]
    net(net.parameters().to(x), x[:1])
    for handle in handles:
        handle.remove()
    for module, output in shapes:
        once = 2 * module.weight.numel() * (output[0, 0].numel() if output.ndim == 4 else 1)
        total += n * once * (1 if first else 2)
        if output.ndim == 4:
            total += n * once + n * (n + 1) * module.weight.numel()
        else:
            total += n * (n + 1) * sum(module.weight.shape)
        first = False
    return total


def kernel(options):
    """Tangent kernels, and how far they are from what the arithmetic costs."""
    n = 6 if options.tiny else 128
    own = ("spikenb", "torch.func, vmap(grad)", NT)
    contenders = {"fcn": (*own, "torch.func, layer by layer"), "cnn": (*own, "unfold, bmm")}
    titles = {
        "fcn": f"FCN 3072-1024×4-1, {n} points, 7.3 million parameters",
        "cnn": f"CNN of 64 channels, 32×32 pixels, {n} points, 178 thousand parameters",
    }
    with (
        Contest("kernel", [*SECTIONS["kernel"], NT], options) as contestants,
        tempfile.TemporaryDirectory() as folder,
    ):
        for name in contenders:
            fit, theta = cases.kernel(name, n, options.tiny)
            titles[name] = titles[name].replace("7.3 million", f"{fit.dim / 1e6:.1f} million")
            inputs = Path(folder, f"{name}.npz")
            weights = {f"w{i}": part.numpy() for i, part in enumerate(fit.model.split(theta).values())}
            np.savez(inputs, x=fit.x.numpy(), **weights)
            say(f"tangent kernel, {name}: the reference")
            exact = _dense_kernel(fit, theta)
            rows = contestants.run(
                {"net": name, "n": n, "inputs": str(inputs)},
                lambda answer, exact=exact: _error(answer["kernel"], exact),
                contenders[name],
                memory=True,
            )
            inputs.unlink()
            yield {"id": f"kernel-{name}", "title": titles[name], "per": "kernel", "rows": rows} | _floor(
                options, fit, rows
            )
    yield _many(options)


def _error(found, exact, tolerance=1e-3):
    error = abs(found - exact).max() / abs(exact).max()
    return {"error": error, "wrong": not error <= tolerance}


def _floor(options, fit, rows):
    """The floor in floating-point operations, the core's speed at matrix products in this run, and their quotient."""
    size = 256 if options.tiny else 2048
    core = contest.Contestant("sgemm", "speed")
    core.ask("build", task={"size": size})
    core.ask("time", calls=1)
    seconds = min(core.ask("time", calls=1)["seconds"] for _ in range(5))
    core.close()
    rate = 2 * size**3 / max(seconds, 1e-6)
    operations = flops(fit.model, fit.x)
    floor = {"flop": operations, "flop_per_second": rate, "seconds": operations / rate}
    own = next((row["seconds"] for row in rows if row["contestant"] == "spikenb"), None)
    return {"floor": floor | {"ratio": own / floor["seconds"] if own else None}}


def _many(options):
    """The FCN's kernel on 5,000 points with two threads: wall time, and the peak of the whole process."""
    n = 40 if options.tiny else 5000
    say(f"tangent kernel, fcn, {n} points, two threads")
    fit, theta = cases.kernel("fcn", n, options.tiny)
    few = torch.arange(min(n, 32 if options.tiny else 64))
    exact = _dense_kernel(fit.batch(few), theta)
    worker = contest.Contestant("spikenb", "kernel", cores=2)
    row = {"contestant": "spikenb", "status": "right"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "answer.npz")
        task = {"tiny": options.tiny, "net": "fcn", "n": n}
        if worker.ask("build", task=task) and worker.ask("answer", file=str(path)):
            with np.load(path) as answer:
                row |= _error(answer["kernel"][: len(few), : len(few)], exact)
            timed = worker.ask("time", calls=1)
            row |= {"seconds": timed["seconds"], "wall": timed["wall"]} | worker.ask("memory")
            row["status"] = "wrong" if row.pop("wrong") else "right"
        else:
            row["status"] = worker.problem
    worker.close()
    return {"id": "kernel-many", "title": f"The same FCN, {n:,} points, two threads", "per": "kernel", "rows": [row]}


def agop(options):
    """Average gradient outer products, G formed."""
    with Contest("agop", SECTIONS["agop"], options) as contestants:
        for outputs in (1, 10):
            net, theta, x = cases.agop(outputs, options.tiny)
            say(f"AGOP, {outputs} outputs: the reference")
            exact = _dense_agop(net, theta.double(), x.double())
            rows = contestants.run(
                {"outputs": outputs}, lambda answer, exact=exact: _error(answer["agop"], exact, 1e-4), memory=True
            )
            many = "10 outputs" if outputs > 1 else "one output"
            title = f"FCN 3072-256×3-{outputs}, 1,000 points, {many}"
            yield {"id": f"agop-{outputs}", "title": title, "per": "AGOP", "rows": rows}


def _dense_agop(net, theta, x):
    x = x.requires_grad_()
    outputs = net(theta, x).reshape(len(x), -1)
    exact = np.zeros((x.shape[1], x.shape[1]))
    for a in range(outputs.shape[1]):
        rows = torch.autograd.grad(outputs[:, a].sum(), x, retain_graph=True)[0].numpy()
        exact += rows.T @ rows
    return exact / len(x)


TABLES = [f"tracking-{name}-{k}" for name in cases.NAMES for k in (1, 2)]
TABLES += ["spectrum", "kernel-fcn", "kernel-cnn", "kernel-many", "agop-1", "agop-10"]
MEASURED = {"tracking": tracking, "spectrum": spectrum, "kernel": kernel, "agop": agop}


# ---- what is printed and kept ----


def shown(table):
    """A table as text."""
    lines = [table["title"], f"  {'':34s} {'status':>14s} {'ms':>9s} {'ratio':>7s} {'error':>8s} {'angle':>8s}"]
    lines[-1] += f" {'products':>14s} {'MB more':>8s}"
    for row in table["rows"]:
        products = f"{row['products']:.2f} ({row['products_warm']:.2f})" if "products" in row else ""
        cells = (
            f"{row['seconds'] * 1e3:.2f}" if "seconds" in row else "",
            f"{row['ratio']:.2f}" if "ratio" in row else "",
            f"{row['error']:.1e}" if "error" in row else "",
            f"{row['angle']:.1e}" if row.get("angle") is not None else "",
            products,
            f"{row['extra_mb']:.0f}" if row.get("extra_mb") is not None else "",
        )
        lines.append(
            "  {:34s} {:>14s} {:>9s} {:>7s} {:>8s} {:>8s} {:>14s} {:>8s}".format(
                row["contestant"], row["status"][:14], *cells
            )
        )
        if "wall" in row:
            lines.append(f"  {'':34s} wall {row['wall']:.1f} s, peak of the whole process {row['peak_mb']:.0f} MB")
    if "floor" in table and table["floor"]["ratio"]:
        floor = table["floor"]
        lines.append(
            f"  floor: {floor['flop'] / 1e9:.1f} GFLOP at {floor['flop_per_second'] / 1e9:.0f} GFLOP/s is "
            f"{floor['seconds'] * 1e3:.0f} ms; spikenb takes {floor['ratio']:.2f} times that"
        )
    return "\n".join(lines)


def measure(options):
    """The tables of the chosen sections, printed and given as they come, with where they were measured."""
    for section in options.only:
        for table in MEASURED[section](options):
            say(shown(table))
            where = contest.provenance(repeats=options.repeats, versions=options.versions)
            yield {"provenance": where, "tables": [{"section": section} | table]}


def joined(before, found):
    """Two sets of tables, the second's in place of the first's where they are the same, with its provenance."""
    tables = {table["id"]: table for table in before["tables"] + found["tables"]}
    versions = before["provenance"]["versions"] | found["provenance"]["versions"]
    return {
        "provenance": found["provenance"] | {"versions": dict(sorted(versions.items()))},
        "tables": [tables[name] for name in TABLES if name in tables],
    }


def parser():
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--only", nargs="+", choices=MEASURED, default=list(MEASURED), help="sections to run")
    found.add_argument("--cases", nargs="+", choices=cases.NAMES, default=[], help="nets of the tracking section")
    found.add_argument("--names", nargs="+", default=[], help="contestants to run; all if none is named")
    found.add_argument("--repeats", type=int, default=3)
    found.add_argument("--tiny", action="store_true", help="tiny sizes, to see that all works; nothing is kept")
    found.add_argument(
        "--neural-tangents",
        default=NEURAL_TANGENTS,
        type=Path,
        metavar="PYTHON",
        help="the interpreter of requirements-neural-tangents.txt",
    )
    return found


def main(arguments=None):
    options = parser().parse_args(arguments)
    options.versions = {}
    path, whole = contest.RESULTS / "core.json", None
    for found in measure(options):
        whole = joined(whole, found) if whole else found
        if not (options.tiny or options.names):  # kept table by table: a run may be broken off
            before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else found
            contest.write("core", joined(before, found))
    return whole


if __name__ == "__main__":
    main()
