"""Gradient descent on a two-layer tanh net: spikenb beside its peers, on the same work, single-threaded.

    python3 make.py benchmark        makes the peers' environment, then runs this and core.py
    python benchmarks/two_layer.py   in an environment with requirements-peers.txt

Every contestant records the loss of each step, in float64. Answers are compared before anything is timed; times
are CPU time, the best of a few repeats, peers interleaved. A peer that is not installed is reported as such.
The table is kept in results/benchmarks/two_layer.json.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", XLA_FLAGS="--xla_cpu_multi_thread_eigen=false")

import argparse
import time

import contest
import numpy as np
import torch

from spikenb import _two_layer, data, networks
from spikenb.descent import gd, gd_many
from spikenb.problem import Fit

torch.set_num_threads(1)
WIDTH, POINTS, LR = 20, 80, 0.05
NET = networks.TwoLayer(WIDTH)
X, Y = data.grid("sin x + sin 4x", -2.5, 2.5, POINTS)
FIT, THETA = Fit(NET, X, Y), networks.normal(NET)
A, W, B, C = (part.reshape(-1) if part.ndim else part for part in NET.split(THETA))


def spikenb(steps):
    return gd(FIT, THETA, LR, steps - 1).loss


def numpy_path(steps):
    theta, losses = THETA.numpy().copy(), np.empty(steps)
    _two_layer._numpy(theta, theta.copy(), losses, LR, 1 / POINTS, X, Y, POINTS, False)
    return losses


def module_and_sgd(steps):
    module = torch.nn.Sequential(torch.nn.Linear(1, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, 1)).double()
    module.load_state_dict({"0.weight": W[:, None], "0.bias": B, "2.weight": A[None], "2.bias": C[None]})
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)
    x, y, losses = torch.from_numpy(X)[:, None], torch.from_numpy(Y)[:, None], np.empty(steps)
    for t in range(steps):
        optimizer.zero_grad()
        loss = ((module(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses[t] = loss.item()
    return losses


def _torch_step(a, w, b, c, x, y):
    h = torch.tanh(x[:, None] * w + b)
    r = h @ a + c - y
    s = (-2 * LR / POINTS) * r
    d = s[:, None] * (1 - h * h) * a
    return a + s @ h, w + x @ d, b + d.sum(0), c + s.sum(), (r @ r) / POINTS


def handwritten_torch(steps, step=_torch_step):
    parameters, x, y = (A, W, B, C), torch.from_numpy(X), torch.from_numpy(Y)
    losses = np.empty(steps)
    with torch.no_grad():
        for t in range(steps):
            *parameters, loss = step(*parameters, x, y)
            losses[t] = loss.item()
    return losses


def compiled_torch():
    step = torch.compile(_torch_step)
    return lambda steps: handwritten_torch(steps, step)


def jax_scan():
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    x, y = jnp.asarray(X), jnp.asarray(Y)
    start = tuple(jnp.asarray(p.numpy()) for p in (A, W, B, C))

    def loss(parameters):
        a, w, b, c = parameters
        return ((jnp.tanh(x[:, None] * w + b) @ a + c - y) ** 2).mean()

    def step(parameters, _):
        value, gradient = jax.value_and_grad(loss)(parameters)
        return jax.tree.map(lambda p, g: p - LR * g, parameters, gradient), value

    run = jax.jit(lambda p, steps: jax.lax.scan(step, p, None, length=steps, unroll=4)[1], static_argnums=1)
    return lambda steps: np.asarray(run(start, steps))


PEERS = {
    "spikenb": (lambda: spikenb, 100_000),
    "JAX lax.scan, unrolled 4": (jax_scan, 40_000),
    "NumPy, derived by hand": (lambda: numpy_path, 10_000),
    "torch.compile, one step": (compiled_torch, 4_000),
    "torch, derived by hand": (lambda: handwritten_torch, 4_000),
    "nn.Module + SGD": (lambda: module_and_sgd, 1_000),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    ready, rows, reference = {}, {}, module_and_sgd(1000)
    for name, (build, steps) in PEERS.items():
        try:
            contestant = build()
            error = np.abs(contestant(1000) - reference).max() / reference.max()
        except Exception as problem:
            reason = f"{type(problem).__name__}: {str(problem).splitlines()[0][:60]}"
            print(f"{name:26s} not run: {reason}")
            missing = isinstance(problem, ModuleNotFoundError)
            rows[name] = {"contestant": name, "status": "not installed" if missing else f"failed: {reason}"}
            continue
        assert error < 1e-12, f"{name} computes something else: {error:.1e}"
        rows[name] = {"contestant": name, "status": "right", "error": error}
        contestant(steps)  # compile for this length
        ready[name] = contestant, steps
    best = dict.fromkeys(ready, np.inf)
    for _ in range(repeats):
        for name, (contestant, steps) in ready.items():
            start = time.process_time()
            contestant(steps)
            best[name] = min(best[name], (time.process_time() - start) / steps)
    slowest = best["nn.Module + SGD"]
    print(f"two-layer tanh, width {WIDTH}, {POINTS} points; answers agree to 1e-12 over 1,000 steps")
    for name, seconds in sorted(best.items(), key=lambda pair: pair[1]):
        print(f"{name:26s} {seconds * 1e6:8.2f} µs a step  {slowest / seconds:7.1f} times nn.Module + SGD")
        rows[name] |= {"seconds": seconds, "ratio": seconds / best["spikenb"]}

    starts = torch.stack([networks.normal(NET, seed=s) for s in range(64)])
    walls = {}
    for cores in (1, 2) * repeats:
        import numba

        numba.set_num_threads(min(cores, numba.config.NUMBA_NUM_THREADS))
        gd_many(FIT, starts, LR, 10)
        start = time.perf_counter()
        gd_many(FIT, starts, LR, 5_000)
        walls[cores] = min(walls.get(cores, np.inf), time.perf_counter() - start)
    print(f"64 nets, 5,000 steps: {walls[1]:.2f} s on one core, {walls[1] / walls[2]:.2f} times as fast on two")
    one = {"section": "descent", "per": "step", "rows": list(rows.values())}
    many = [
        {"contestant": f"spikenb, {name}", "status": "right", "seconds": walls[cores], "ratio": walls[cores] / walls[1]}
        for cores, name in ((1, "one core"), (2, "two cores"))
    ]
    tables = [
        one | {"id": "descent", "title": f"Tanh net 1-{WIDTH}-1, {POINTS} points"},
        {"section": "descent", "id": "descent-many", "title": "64 such nets, 5,000 steps, wall time", "rows": many},
    ]
    tables[1]["per"] = "run"
    versions = {name: found for name in contest.VERSIONS if (found := contest.version_of(name))}
    contest.write("two_layer", {"provenance": contest.provenance(repeats=repeats, versions=versions), "tables": tables})


if __name__ == "__main__":
    main()
