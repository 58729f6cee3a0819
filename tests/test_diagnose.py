"""The watch on a training loop: thresholds against dense algebra, stories of planted runs, awkward modules."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from spikenb import diagnose


def batches(n=64, dim=6, count=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(dim, 1, generator=generator)
    for _ in range(count):
        x = torch.randn(n, dim, generator=generator)
        yield x, torch.tanh(x @ w)


def loop(model, optimizer, data, loss_fn=None, before=None, **options):
    loss_fn = loss_fn or nn.MSELoss()
    watch = diagnose.Watch(model, loss_fn, optimizer, **{"budget": 1e6, "every": 10, **options})
    for t, (x, y) in enumerate(data):
        if before is not None:
            before(t)
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        watch.see(x, y, loss)
    watch.close()
    return watch


def small(seed=0, dim=6):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(dim, 8), nn.Tanh(), nn.Linear(8, 1))


@pytest.fixture
def data():
    return list(batches())


# the thresholds

OPTIMIZERS = {
    "gd": lambda p, lr: torch.optim.SGD(p, lr),
    "heavy": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.8),
    "damped": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.8, dampening=0.5),
    "nesterov": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.8, nesterov=True),
    "decay": lambda p, lr: torch.optim.SGD(p, lr, weight_decay=0.5),
}


class Quadratic(nn.Module):
    def __init__(self, curvatures):
        super().__init__()
        self.theta = nn.Parameter(torch.ones(len(curvatures)))
        self.register_buffer("curvatures", torch.tensor(curvatures))

    def forward(self, x):
        return (self.curvatures * self.theta**2).sum() / 2


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_threshold_is_where_the_optimizer_itself_turns_unstable(name):
    """On a quadratic: with a ratio of 0.97 it shrinks, with 1.03 it grows, whatever the optimizer."""
    ends = {}
    for ratio in (0.97, 1.03):
        model, lr = Quadratic([3.0, 1.0]), 1.0
        for _ in range(2):  # the ratio is proportional to η where there is no momentum in it
            model = Quadratic([3.0, 1.0])
            optimizer = OPTIMIZERS[name](model.parameters(), lr)
            watch = loop(model, optimizer, [(torch.zeros(1), torch.zeros(1))], lambda out, y: out)
            found = watch.ratio_of(watch.ring[0], *watch.reference_batch())[0]
            lr *= ratio / found
        model = Quadratic([3.0, 1.0])
        optimizer = OPTIMIZERS[name](model.parameters(), lr)
        for _ in range(250):
            optimizer.zero_grad()
            model(None).backward()
            optimizer.step()
        ends[ratio] = model.theta.detach().norm().item()
    assert ends[0.97] < 0.1 and not ends[1.03] < 10, ends  # NaN is growth too


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "adagrad"])
def test_the_preconditioned_ratio_is_that_of_the_dense_matrix(name, data):
    """λ1 of P⁻¹H from autograd's dense Hessian and a preconditioner measured from the optimizer's own step."""
    model = small()
    make = {
        "adam": lambda p: torch.optim.Adam(p, 1e-2, betas=(0.8, 0.99)),
        "adamw": lambda p: torch.optim.AdamW(p, 1e-2, betas=(0.8, 0.99)),
        "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3),
        "adagrad": lambda p: torch.optim.Adagrad(p, 1e-2),
    }[name]
    optimizer = make(model.parameters())
    watch = loop(model, optimizer, data[:12])
    kept = watch.ring[-1]
    x, y = kept.x, kept.y
    hessian = torch.func.hessian(lambda t: nn.functional.mse_loss(watch.outputs(t, x), y))(kept.theta)
    parts = []
    for p in model.parameters():
        state, group = optimizer.state[p], optimizer.param_groups[0]
        if name.startswith("adam"):
            t, (b1, b2) = float(state["step"]), group["betas"]
            parts.append((1 - b1**t) * ((state["exp_avg_sq"] / (1 - b2**t)).sqrt() + group["eps"]))
        else:
            parts.append(state["sum" if name == "adagrad" else "square_avg"].sqrt() + group["eps"])
    preconditioner = torch.cat([p.reshape(-1) for p in parts])
    dense = torch.linalg.eigvals(hessian / preconditioner[:, None]).real.max().item()
    c = {"adam": 3.6 / 0.2, "adamw": 3.6 / 0.2, "rmsprop": 2, "adagrad": 2}[name]
    assert watch.ratio_of(kept, x, y)[0] == pytest.approx(dense * kept.rates[0] / c, rel=0.03)
    assert diagnose.threshold(torch.optim.Adam(model.parameters(), 1e-3)) == pytest.approx(38)


def test_groups_with_their_own_rates(data):
    model = small()
    optimizer = torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.5}, {"params": model[2].parameters()}], 0.01)
    watch = loop(model, optimizer, data[:8])
    kept = watch.ring[0]
    hessian = torch.func.hessian(lambda t: nn.functional.mse_loss(watch.outputs(t, kept.x), kept.y))(kept.theta)
    s = torch.cat([torch.full((6 * 8 + 8,), 0.5), torch.full((9,), 0.01)]).sqrt()
    dense = torch.linalg.eigvalsh(s[:, None] * hessian * s)[-1].item() / 2
    assert watch.ratio_of(kept, kept.x, kept.y)[0] == pytest.approx(dense, rel=0.03)


def test_the_kernel_is_that_of_the_jacobian(data):
    model = small()
    watch = loop(model, torch.optim.SGD(model.parameters(), 0.1), data[:5])
    kept = watch.ring[0]
    jacobian = torch.func.jacrev(lambda t: watch.outputs(t, kept.x).reshape(-1))(kept.theta)
    values, vectors = torch.linalg.eigh(jacobian.T @ jacobian)
    found, _, shares = watch.kernel_of(kept, kept.x)
    h = 2.0  # the squared error's
    assert found == pytest.approx(values[-1].item() * h / len(kept.x) * 0.1 / 2, rel=0.05)
    along = (jacobian @ vectors[:, -1]) ** 2
    assert torch.allclose(shares, along / along.sum(), atol=0.02)


# the stories


def test_a_healthy_run_has_no_spike(data):
    model = small()
    report = loop(model, torch.optim.SGD(model.parameters(), 0.05), data).report()
    assert report.story == diagnose.HEALTHY and not report.diagnoses and "no spike" in str(report)


def spiky(kind):
    model, data = small(), list(batches(count=60))
    if kind == "batch":  # a tanh would be saturated by so large an input
        model[1] = nn.ReLU()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    if kind == "batch":
        x, y = data[40]
        x, y = x.clone(), y.clone()
        x[[7, 9]] *= 20
        y[[7, 9]] *= -20
        data[40] = x, y
    if kind == "nan":
        data[40][0][5, 2] = math.nan

    def before(t):
        if kind == "schedule" and t == 40:
            optimizer.param_groups[0]["lr"] = 6.0

    return loop(model, optimizer, data, before=before).report()


def test_the_planted_batch_and_its_samples_are_named():
    first = spiky("batch").diagnoses[0]
    assert first.story == diagnose.BATCH and first.batch == 40
    assert {name for name, _ in first.samples[:2]} == {7, 9}
    assert sum(share for _, share in first.samples[:2]) > 0.9
    assert first.numbers["kernels"].max() > 1


def test_a_schedule_is_named():
    first = spiky("schedule").diagnoses[0]
    assert first.story == diagnose.SCHEDULE and first.numbers["ratio"] > 1 and first.numbers["share of η"] > 0.5


def test_a_nan_is_a_fault_and_its_sample_is_named():
    first = spiky("nan").diagnoses[0]
    assert first.story == diagnose.FAULT and first.batch == 40 and [name for name, _ in first.samples] == [5]


def test_a_fault_in_the_loops_own_precision(data):
    """The loop's loss overflows in half precision where float32 has an ordinary value."""
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    watch = diagnose.Watch(model, nn.MSELoss(), optimizer, budget=1e6)
    for t, (x, y) in enumerate(data):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        (loss * (1.0 if t < 30 else math.inf)).backward()
        optimizer.step()
        watch.see(x, y, loss * (torch.tensor(6e4 if t >= 30 else 1.0).half() * 4).float() / 4)
        if t == 30:
            break
    first = watch.report().diagnoses[0]
    assert (
        first.story == diagnose.FAULT and "finite in float32" in str(first) and math.isfinite(first.numbers["float32"])
    )


def test_divergence():
    model = small()
    report = loop(model, torch.optim.SGD(model.parameters(), 40.0), list(batches(count=25))).report()
    assert report.story == diagnose.DIVERGENCE and report.diagnoses[0].numbers["ratio"] > 1


def test_a_push_from_outside_is_not_explained(data):
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.02)

    def before(t):
        if t == 30:
            with torch.no_grad():
                for p in model.parameters():
                    p += 1.0

    report = loop(model, optimizer, data, before=before).report()
    assert report.story == diagnose.UNKNOWN and report.diagnoses[0].numbers["ratio"] < 1


def test_one_hard_batch_is_no_spike(data):
    """A batch with a high loss that the step does not spoil the others with."""
    x, y = data[30]
    data[30] = x, y + 20
    model = small()
    report = loop(model, torch.optim.SGD(model.parameters(), 1e-3), data).report()
    assert report.story == diagnose.HEALTHY and "1 jumps of one batch's loss" in str(report)
    assert re.search(r"no spikes; the highest: step 30 \([\d.]+ to \d+", str(report)), report


def test_a_loss_of_zero_is_no_trouble():
    """A hinge loss that is met everywhere, but for one row of another kind."""

    def hinge(output, y):
        return torch.relu(1 - output * y).mean()

    torch.manual_seed(0)
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    data = []
    for t in range(40):
        y = torch.where(torch.arange(8) % 2 == 0, 1.0, -1.0)[:, None]
        x = y.clone()
        if t in (0, 20):
            y[3] = -y[3]
        data.append((x, y))
    report = loop(model, torch.optim.SGD(model.parameters(), 1e-3), data, hinge, reference=16).report()
    assert report.story == diagnose.HEALTHY and "step 20 (0 to 0.375)" in str(report)


def test_a_low_spike_needs_a_lower_ratio(data):
    """As in language models, whose loss has a floor: the rise is there, and a default ratio says how high it was."""

    def with_a_floor(output, y):
        return nn.functional.mse_loss(output, y) + 1

    reports = []
    for ratio in (2.0, 1.2):
        model = small()
        optimizer = torch.optim.SGD(model.parameters(), 0.05)

        def before(t, group=optimizer.param_groups[0]):
            group["lr"] = 1.8 if t == 30 else 0.05

        reports.append(loop(model, optimizer, data, with_a_floor, before, ratio=ratio).report())
    unseen, seen = reports
    assert unseen.story == diagnose.HEALTHY and re.search(r"the loss of step \d+ was 1\.[1-4]\d* times", str(unseen))
    assert seen.story == diagnose.SCHEDULE and seen.main.step in (31, 32)


def test_what_cannot_be_watched_so_is_told(data):
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match=r"ratio must be above 1, not 0\.9"):
        diagnose.Watch(model, nn.MSELoss(), optimizer, ratio=0.9)
    watch = diagnose.Watch(model, nn.MSELoss(), optimizer)
    x, y = data[0]
    with pytest.warns(UserWarning, match="call it after each"):
        watch.see(x, y, nn.functional.mse_loss(model(x), y))


# awkward modules


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.b.weight = self.a.weight
        self.out = nn.Linear(6, 1)

    def forward(self, x):
        return self.out(torch.tanh(self.b(torch.tanh(self.a(x)))))


def test_tied_weights_count_once(data):
    torch.manual_seed(0)
    model = Tied()
    watch = loop(model, torch.optim.SGD(model.parameters(), 0.1), data[:8])
    assert watch.dim == 36 + 7
    kept = watch.ring[0]

    def loss(theta):
        w, out, b = theta[:36].view(6, 6), theta[36:42].view(1, 6), theta[42:]
        outputs = torch.tanh(torch.tanh(kept.x @ w.T) @ w.T) @ out.T + b
        return nn.functional.mse_loss(outputs, kept.y)

    dense = torch.linalg.eigvalsh(torch.func.hessian(loss)(kept.theta))[-1].item()
    assert watch.ratio_of(kept, kept.x, kept.y)[0] == pytest.approx(dense * 0.1 / 2, rel=0.02)


def test_a_frozen_part_is_a_constant(data):
    model = small()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    watch = loop(model, torch.optim.SGD(model[2].parameters(), 0.1), data[:8])
    assert watch.dim == 9 and watch.report().story == diagnose.HEALTHY and torch.equal(model[0].weight, before)
    optimizer = torch.optim.SGD(model[2].parameters(), 0.1)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter"):
        diagnose.Watch(model, nn.MSELoss(), optimizer)


def test_dropout_is_frozen_and_the_runs_own_noise_is_untouched(data):
    def run(watched):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Dropout(0.5), nn.Linear(32, 1))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        if watched:
            watch = loop(model, optimizer, data, every=5)
            kept = watch.ring[0]
            assert watch.loss_at(kept) == watch.loss_at(kept)
            assert any("frozen mask" in note for note in watch.report().notes) and watch.history
        else:
            for x, y in data:
                optimizer.zero_grad()
                nn.functional.mse_loss(model(x), y).backward()
                optimizer.step()
        return model[0].weight.detach()

    assert torch.equal(run(True), run(False))


def test_batch_norm_keeps_its_statistics(data):
    def run(watched):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        if watched:
            watch = loop(model, optimizer, data)
            model.eval()
            report = watch.report()
            kept = watch.ring[-1]
            assert watch.loss_at(kept) == pytest.approx(kept.loss, rel=1e-4)  # in training mode, as the step was
            assert not model[1].training and any("batch norm" in note for note in report.notes)
        else:
            for x, y in data:
                optimizer.zero_grad()
                nn.functional.mse_loss(model(x), y).backward()
                optimizer.step()
        return model[1].running_mean, model[1].running_var, model[0].weight.detach()

    for a, b in zip(run(True), run(False), strict=True):
        assert torch.equal(a, b)


def test_a_closure(data):
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.5)
    watch = diagnose.Watch(model, nn.MSELoss(), optimizer, budget=1e6)
    for x, y in data:

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            return loss

        watch.see(x, y, optimizer.step(closure))
    kept = watch.ring[-1]
    assert watch.loss_at(kept) == pytest.approx(kept.loss, rel=1e-4) and watch.report().story == diagnose.HEALTHY


def test_several_inputs_and_an_attention_layer():
    """A transformer layer, whose fused attention has no second derivative, and inputs by name."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(11, 8)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
            self.head = nn.Linear(8, 11)

        def forward(self, tokens, scale):
            return self.head(self.layer(self.embed(tokens) * scale))

    torch.manual_seed(0)
    model, loss_fn = Model(), lambda out, y: nn.functional.cross_entropy(out.flatten(0, 1), y.flatten())
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    watch = diagnose.Watch(model, loss_fn, optimizer, every=5, budget=1e6)
    for _ in range(12):
        tokens = torch.randint(11, (4, 6))
        x = {"tokens": tokens, "scale": torch.ones(4, 1, 1)}
        optimizer.zero_grad()
        loss = loss_fn(model(**x), tokens)
        loss.backward()
        optimizer.step()
        watch.see(x, tokens, loss)
    assert watch.history and all(ratio > 0 for _, ratio in watch.history)
    assert watch.kernel_of(watch.ring[-1], x)[2].sum().item() == pytest.approx(1, abs=1e-4)


def test_autocast_is_left_for_float32(data):
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    watch = diagnose.Watch(model, nn.MSELoss(), optimizer, budget=1e6, every=5)
    for x, y in data:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.mse_loss(model(x).float(), y)
        loss.backward()
        optimizer.step()
        watch.see(x, y, loss)
    kept = watch.ring[-1]
    with torch.autocast("cpu", torch.bfloat16):
        assert watch.outputs(kept.theta, kept.x).dtype == torch.float32
        inside = watch.ratio_of(kept, kept.x, kept.y)[0]
    assert inside == pytest.approx(watch.ratio_of(kept, kept.x, kept.y)[0], rel=1e-5)
    assert watch.loss_at(kept) == pytest.approx(kept.loss, rel=0.1) and watch.report().story == diagnose.HEALTHY


def test_a_model_in_bfloat16(data):
    model = small().bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    watch = loop(model, optimizer, [(x.bfloat16(), y.bfloat16()) for x, y in data[:12]])
    kept = watch.ring[-1]
    assert kept.theta.dtype == torch.float32 and math.isfinite(watch.ratio_of(kept, kept.x, kept.y)[0])


def test_the_loop_is_not_changed_by_the_watch(data):
    ends = []
    for watched in (True, False):
        model = small()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        if watched:
            loop(model, optimizer, data).report()
        else:
            for x, y in data:
                optimizer.zero_grad()
                nn.functional.mse_loss(model(x), y).backward()
                optimizer.step()
        ends.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    assert torch.equal(*ends)


# cost, and what is refused


def test_chunks_change_the_memory_and_not_the_ratio(data):
    found = []
    for chunk in (64, 24):
        model = small()
        watch = loop(model, torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1), data[:5], chunk=chunk)
        kept = watch.ring[0]
        assert len(watch._parts(kept.x, kept.y)) == (1 if chunk == 64 else 3)
        found.append(watch.ratio_of(kept, kept.x, kept.y)[0])
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_what_is_kept_is_bounded():
    model = small()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    held = [loop(model, optimizer, list(batches(count=n))).bytes for n in (60, 240)]
    assert held[1] <= 1.2 * held[0]


def test_over_the_budget_the_last_parameters_stand_for_the_steps():
    model = small()
    watch = loop(model, torch.optim.SGD(model.parameters(), 0.05), list(batches(count=120)), budget=1e-6)
    assert watch.missed > 50 and not watch.history and not all(kept.exact for kept in watch.ring)
    assert any("for the budget" in note for note in watch.report().notes)


def test_refusals():
    model = small()
    loss = nn.MSELoss()
    with pytest.raises(TypeError, match="LBFGS"):
        diagnose.Watch(model, loss, torch.optim.LBFGS(model.parameters()))
    with pytest.raises(TypeError, match="model"):
        diagnose.Watch(lambda x: x, loss, torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(TypeError, match="loss_fn"):
        diagnose.Watch(model, None, torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(ValueError, match="not the model's"):
        diagnose.Watch(model, loss, torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1))
    with pytest.raises(ValueError, match="maximizes"):
        diagnose.Watch(model, loss, torch.optim.SGD(model.parameters(), 0.1, maximize=True))
    groups = [{"params": model[0].parameters(), "momentum": 0.9}, {"params": model[2].parameters()}]
    with pytest.raises(ValueError, match="different momentum"):
        diagnose.Watch(model, loss, torch.optim.SGD(groups, 0.1))
    with pytest.raises(ValueError, match="budget"):
        diagnose.Watch(model, loss, torch.optim.SGD(model.parameters(), 0.1), budget=0)


def test_lightning():
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = small()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            x, y = batch
            return nn.functional.mse_loss(self(x), y)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.05)

    x, y = next(batches(n=640))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=32)
    callback = diagnose.LightningCallback(nn.MSELoss(), every=10, budget=1e6)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), loader)
    assert len(callback.watch.losses) == 40 and callback.watch.history and callback.report.story == diagnose.HEALTHY
    assert np.isfinite(callback.watch.gradients).all()


def test_lightning_is_imported_only_when_asked_for():
    with pytest.raises(AttributeError, match="nothing"):
        _ = diagnose.nothing
