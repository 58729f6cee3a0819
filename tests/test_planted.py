"""The runs with a planted cause: how answers are counted, the stored judgement, and what a recorder costs."""

import json

import pytest
import torch
from conftest import ROOT
from torch import nn
from torch.profiler import ProfilerActivity, profile

from spikenb import diagnose
from spikenb.book import benchmark, planted

STORED = json.loads((ROOT / "results/benchmarks/diagnose.json").read_text(encoding="utf-8"))


def test_the_stored_answers_meet_the_criteria_and_are_counted_right():
    runs = STORED["runs"]
    assert len(runs) >= 30 and {one["kind"] for one in runs} == {*planted.KINDS}
    assert min(one["seed"] for one in runs) >= 620, "the seeds below were looked at"
    assert len({(one["kind"], one["seed"]) for one in runs}) == len(runs)
    assert STORED["confusion"] == planted.confusion(runs)
    score = planted.score(runs)
    assert {name: list(counts) for name, counts in score.items()} == STORED["score"]
    assert STORED["criteria"] == planted.CRITERIA
    for name, (right, count) in score.items():
        assert right >= planted.CRITERIA[name] * count, name


def test_answers_handed_to_another_run_fail():
    """The control of the criteria."""
    runs = STORED["runs"]
    others = [one | {"story": other["story"]} for one, other in zip(runs, runs[1:] + runs[:1], strict=True)]
    for name in ("named", "healthy"):
        right, count = planted.score(others)[name]
        assert right < planted.CRITERIA[name] * count


def test_the_table_has_every_answer():
    page = benchmark.confusion_table(STORED)
    for row in STORED["confusion"].values():
        for story, count in row.items():
            assert f">{benchmark.html.escape(story)}<" in page and f"<td>{count}</td>" in page


@pytest.mark.parametrize("kind", ["batch", "divergence", "fault"])
def test_a_planted_cause_is_named(kind):
    found, report = planted.judge(kind, 601)
    assert found["story"] == planted.PLANTED[kind] and str(report)
    if kind == "batch":
        assert found["batch_named"] and found["samples_named"] == 1


def test_an_interrupted_judgement_goes_on(tmp_path, monkeypatch, capsys):
    done = []

    def judge(kind, seed):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append((kind, seed))
        return {"kind": kind, "seed": seed, "story": planted.PLANTED[kind]}, None

    out = tmp_path / "found.json"
    monkeypatch.setattr(planted, "judge", judge)
    monkeypatch.setattr("sys.argv", ["planted", "--seeds", "1-5", "--kinds", "healthy", "--out", str(out)])
    with pytest.raises(KeyboardInterrupt):
        planted.main()
    done.clear()
    planted.main()
    assert done == [("healthy", 4), ("healthy", 5)]
    assert json.loads(out.read_text())["score"] == {"healthy": [5, 5]}


# what a recorder costs, on the CNN of the planted runs


def peak(work):
    """The most bytes that `work` held beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_memory_is_at_most_twice_the_steps(name):
    torch.manual_seed(0)
    x, y = planted.digits()
    model, loss_fn, size = planted.cnn(), nn.CrossEntropyLoss(), 64
    optimizer = planted.optimizer_of(name, model, 1e-3)

    def train(watch=None):
        for k in range(12):
            batch = slice(k * size, (k + 1) * size)
            optimizer.zero_grad()
            loss = loss_fn(model(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
            if watch:
                watch.see(x[batch], y[batch], loss)

    train()
    held = sum(p.nbytes for p in model.parameters()) * (4 if name == "adam" else 2)  # with gradients and averages
    alone = held + peak(train)
    watch = diagnose.Watch(model, loss_fn, optimizer, budget=1e6, every=5)
    within = held + peak(lambda: train(watch))
    watch.close()
    assert watch.history
    watch._freeze(11, 1.0, True)
    watch.frozen[0].shared = True
    report = held + watch.bytes + peak(watch.report)
    assert within <= 2 * alone and report <= 2 * alone


def test_overhead_is_bounded():
    """A share of the same run's training time, so that a busy machine stretches both."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    x, y = planted.digits()
    model = planted.cnn()
    batches = planted.draw(x, y, 200, 64, generator)
    watch = planted.train(model, nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), 5e-4), batches)
    assert 0 < watch.overhead <= 0.15
    assert f"{100 * watch.overhead:.1f}%" in str(watch.report())
