"""The benchmark of `spikenb.diagnose`: runs with a planted cause, and what the first answer says of each.

    python -m benchmarks.diagnose --seeds 100-105 --out results/benchmarks/diagnose.json

Five causes, healthy runs, and a cause that is none of the stories (a random push of the parameters), whose answer
should be "not explained"; one of each kind a seed. The seeds of development are 0–9, the judged ones 100 and up.
A planted cause that made no spike counts against the answer, as "no spike".
"""

import argparse
import json
import math
import time

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from spikenb import curvature, diagnose, problem

KINDS = "curvature", "batch", "schedule", "divergence", "fault", "healthy", "kick"
PLANTED = dict(zip(KINDS, (*diagnose.STORIES[:5], diagnose.HEALTHY, diagnose.UNKNOWN), strict=True))


def digits():
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x / 8 - 1, dtype=torch.float32), torch.tensor(y)


def mlp(activation=nn.Tanh, width=128):
    return nn.Sequential(
        nn.Linear(64, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, 10)
    )


def cnn(width=16):
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * width, 10),
    )


def squared(outputs, y):
    return ((outputs - functional.one_hot(y, 10)) ** 2).sum(1).mean()


def train(model, loss_fn, optimizer, batches, before=None, cast=None, **options):
    """An ordinary loop with a watch; `before(t)` may set the learning rate."""
    watch = diagnose.Watch(model, loss_fn, optimizer, **options)
    for t, (x, y, index) in enumerate(batches):
        if before is not None:
            for group in optimizer.param_groups:
                group["lr"] = before(t)
        optimizer.zero_grad()
        outputs = model(x)
        loss = loss_fn(outputs, y) if cast is None else cast(outputs, y, t)
        loss.backward()
        optimizer.step()
        watch.see(x, y, loss, index)
        if not torch.isfinite(loss):
            break
    watch.close()
    return watch


def draw(x, y, steps, size, generator):
    """`steps` batches of `size` points, epoch by epoch; the whole set each time where size is None."""
    order = []
    for _ in range(steps):
        if size is None:
            yield x, y, torch.arange(len(x))
            continue
        if len(order) < size:
            order = torch.randperm(len(x), generator=generator)
        index, order = order[:size], order[size:]
        yield x[index], y[index], index


def optimizer_of(name, model, lr):
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), lr)
    if name == "momentum":
        return torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](model.parameters(), lr)


RATES = {"sgd": 0.03, "momentum": 0.005, "adam": 5e-4, "adamw": 5e-4}


def run(kind, seed):
    """One run: (watch, what was planted beyond the kind)."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    x, y = digits()
    chosen = torch.randperm(len(x), generator=generator)
    x, y = x[chosen], y[chosen]
    name = ("sgd", "momentum", "adam", "adamw")[seed % 4]
    model = mlp(nn.ReLU) if seed % 3 else cnn()
    loss_fn = nn.CrossEntropyLoss()
    rate, steps, size = RATES[name], 400, 64
    if kind == "healthy":

        def schedule(t):  # a warm-up and a cosine
            return rate * min(1, (t + 1) / 50) * (1 + math.cos(math.pi * t / steps)) / 2 if seed % 2 else rate

        batches = draw(x, y, steps, size, generator)
        return train(model, loss_fn, optimizer_of(name, model, rate), batches, schedule), {}
    if kind == "curvature":
        return sharpening(seed, x, y, generator), {}
    if kind == "batch":
        at, rows = 150 + 10 * (seed % 7), sorted(torch.randperm(size, generator=generator)[:4].tolist())
        planted = {}

        def batches():
            for t, (bx, by, index) in enumerate(draw(x, y, steps, size, generator)):
                if t == at:
                    bx, by = bx.clone(), by.clone()
                    bx[rows] *= 30 if seed % 3 == 0 else 60
                    by[rows] = (by[rows] + 5) % 10
                    planted.update(step=t, samples=index[rows].tolist())
                yield bx, by, index

        rate = {"sgd": 0.03, "momentum": 0.01, "adam": 3e-3, "adamw": 3e-3}[name]
        rate *= 1 if seed % 3 == 0 else 3  # the MLPs are slower
        return train(model, loss_fn, optimizer_of(name, model, rate), batches()), planted
    if kind == "schedule":
        return schedule_run(seed, name, model, loss_fn, x, y, generator), {}
    if kind == "kick":
        return kick(seed, name, model, loss_fn, x, y, generator), {}
    if kind == "divergence":
        return divergence(seed, x, y, generator), {}
    return fault(seed, name, model, loss_fn, x, y, generator), {}


def sharpening(seed, x, y, generator):
    """A constant learning rate on the whole set: progressive sharpening. Plain descent is left out: at the edge its
    loss seldom rises twofold on these data."""
    x, y = x[:256], y[:256]
    model, name = mlp(nn.Tanh, 64), ("momentum", "adam")[seed % 2]
    lr = (3e-3, 6e-3)[seed // 2 % 2] if name == "adam" else 0.65 * edge(name, model, x, y)
    return train(model, squared, optimizer_of(name, model, lr), draw(x, y, 700, None, generator))


def edge(name, model, x, y):
    """The learning rate whose threshold is the sharpness at the start."""
    watch = diagnose.Watch(model, squared, optimizer_of(name, model, 1.0))
    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    fit = problem.Problem(lambda theta: squared(watch.outputs(theta, x), y), len(theta))
    return watch.c / curvature.top_eigenpairs(fit, theta, tol=1e-2).values[0]


def schedule_run(seed, name, model, loss_fn, x, y, generator):
    rate, at = RATES[name], 200
    factor = {"sgd": 30, "momentum": 60, "adam": 100, "adamw": 100}[name]
    if seed % 2:  # a jump
        schedule = lambda t: rate * (factor if t >= at else 1)  # noqa: E731
    else:  # a warm-up that ends too high
        schedule = lambda t: rate * (0.02 + factor * min(t / 300, 1))  # noqa: E731
    batches = draw(x, y, 400, 128, generator)
    return train(model, loss_fn, optimizer_of(name, model, rate), batches, schedule)


def divergence(seed, x, y, generator):
    """A learning rate far over the threshold from the first step on."""
    model, name = mlp((nn.Tanh, nn.ReLU)[seed % 2]), ("sgd", "momentum")[seed // 2 % 2]
    lr = {"sgd": 3.0, "momentum": 1.5}[name]
    return train(model, squared, optimizer_of(name, model, lr), draw(x, y, 200, 128, generator))


def fault(seed, name, model, loss_fn, x, y, generator):
    at, what, cast = 120 + seed % 50, ("data", "overflow", "gradient")[seed % 3], None
    batches = list(draw(x, y, 200, 64, generator))
    if what == "data":
        bx = batches[at][0].clone()
        bx[seed % 64, 3] = (float("nan"), float("inf"))[seed % 2]
        batches[at] = (bx, *batches[at][1:])
    elif what == "overflow":  # the logits are scaled up and squared in half precision
        cast = lambda o, y, t: loss_fn(o, y) + (0 * (o * (1e4 if t == at else 1)).half() ** 2).sum().float()  # noqa: E731
    else:  # the gradient of a square root at zero
        cast = lambda o, y, t: loss_fn(o, y) + ((o - o).square().sum().sqrt() if t == at else 0)  # noqa: E731
    return train(model, loss_fn, optimizer_of(name, model, RATES[name]), batches, cast=cast)


def kick(seed, name, model, loss_fn, x, y, generator):
    """A cause that is none of the stories: at one step the parameters are pushed at random."""
    at, rate = 150 + seed % 40, RATES[name]

    def before(t):
        if t == at:
            with torch.no_grad():
                for p in model.parameters():
                    p += 0.15 * torch.randn(p.shape, generator=generator)
        return rate

    batches = draw(x, y, 300, 64, generator)
    return train(model, loss_fn, optimizer_of(name, model, rate), batches, before)


def judge(kind, seed):
    begin = time.perf_counter()
    watch, planted = run(kind, seed)
    report = watch.report()
    found = {"kind": kind, "seed": seed, "story": report.story, "overhead": report.overhead, "bytes": report.bytes}
    found |= {"report_seconds": report.seconds, "seconds": time.perf_counter() - begin}
    if kind == "batch":
        blamed = next((d for d in report.diagnoses if d.story == diagnose.BATCH), None)
        found["batch_named"] = blamed is not None and blamed.batch == planted["step"]
        named = [name for name, _ in blamed.samples[: len(planted["samples"])]] if blamed else []
        found["samples_named"] = len(set(named) & set(planted["samples"])) / len(planted["samples"])
    return found, report


def confusion(found):
    """{planted kind: {first answer: count}}."""
    table = {}
    for one in found:
        row = table.setdefault(one["kind"], {})
        row[one["story"]] = row.get(one["story"], 0) + 1
    return table


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0-1")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--out")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    first, last = map(int, options.seeds.split("-"))
    found = []
    for seed in range(first, last + 1):
        for kind in options.kinds.split(","):
            one, report = judge(kind, seed)
            found.append(one)
            print(
                kind,
                seed,
                one["story"],
                {k: v for k, v in one.items() if k not in ("kind", "seed", "story")},
                flush=True,
            )
            if options.verbose:
                print(report, "\n", flush=True)
            if options.out:
                with open(options.out, "w") as file:
                    json.dump({"runs": found, "confusion": confusion(found)}, file, indent=1)
    for kind, row in confusion(found).items():
        print(f"{kind:12} {row}")


if __name__ == "__main__":
    main()
