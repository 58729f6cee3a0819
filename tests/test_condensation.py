"""The measures of condensation against loops, histograms and nets whose orientations are known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from spikenb import networks
from spikenb.measure.condensation import (
    effective_orientations,
    kink_mass,
    measures,
    near_share,
    neurons,
    participation,
    total_variation,
)

seeds, sizes = st.integers(0, 10_000), st.integers(1, 25)
periods = st.sampled_from([np.pi, 2 * np.pi])


def drawn(seed, k, period=2 * np.pi):
    rng = np.random.default_rng(seed)
    return rng.uniform(-period / 2, period / 2, k), rng.exponential(size=k) + 1e-3


# ---- neurons ----


@given(seeds, sizes, st.booleans())
@settings(deadline=None, max_examples=50)
def test_neurons_one_by_one(seed, m, odd):
    a, w, b = np.random.default_rng(seed).normal(size=(3, m))
    found = neurons(a, w, b, odd=odd)
    for j in range(m):
        length = math.sqrt(w[j] ** 2 + b[j] ** 2)
        assert found.amplitude[j] == pytest.approx(abs(a[j]) * length)
        assert (found.output[j], found.input[j]) == pytest.approx((abs(a[j]), length))
        arrow = length * np.array([math.cos(found.angle[j]), math.sin(found.angle[j])])
        assert np.allclose(arrow, [w[j], b[j]]) or (odd and np.allclose(-arrow, [w[j], b[j]]))
    assert (abs(found.angle) <= found.period / 2).all() and (found.angle < found.period / 2).all()


@given(seeds, sizes)
@settings(deadline=None, max_examples=30)
def test_a_tanh_neuron_and_its_mirror_image_are_the_same(seed, m):
    a, w, b = np.random.default_rng(seed).normal(size=(3, m))
    one, other = neurons(a, w, b, odd=True), neurons(-a, -w, -b, odd=True)
    assert np.allclose(np.exp(2j * one.angle), np.exp(2j * other.angle))
    assert np.allclose(one.amplitude, other.amplitude)


@given(seeds, st.integers(5, 40))
@settings(deadline=None, max_examples=50)
def test_the_dead_are_those_that_are_zero_on_the_interval(seed, m):
    rng = np.random.default_rng(seed)
    a, w, b = rng.normal(size=(3, m))
    low, high = np.sort(rng.normal(size=2)) + np.array([0, 0.1])
    hidden = np.maximum(np.multiply.outer(np.linspace(low, high, 500), w) + b, 0)
    alive = hidden.any(axis=0)
    if not alive.any():
        with pytest.raises(ValueError, match="alive_on leaves no neuron"):
            neurons(a, w, b, alive_on=(low, high))
        return
    found = neurons(a, w, b, alive_on=(low, high))
    assert np.allclose(found.amplitude, (abs(a) * np.hypot(w, b))[alive])


def test_a_net_as_it_splits():
    net = networks.TwoLayer(30, "relu")
    a, w, b, _ = net.split(networks.normal(net, seed=3))
    assert np.array_equal(neurons(a, w, b).angle, neurons(a.numpy(), w.numpy()[:, 0], b.numpy()).angle)
    assert neurons(a, w, b).angle == pytest.approx(torch.atan2(b, w[:, 0]).numpy())


def test_the_ends_of_the_circle():
    ends = neurons([1, 1, 1, 1], [-1, -1, 0, 0], [0.0, -1e-300, 1, -1], odd=False)
    assert (ends.angle >= -np.pi).all() and (ends.angle < np.pi).all()
    assert neurons([1, 1], [0, 0], [1, -1], odd=True).angle == pytest.approx([-np.pi / 2] * 2)


# ---- the three measures ----


@given(seeds, sizes, periods, st.floats(0.5, 40))
@settings(deadline=None, max_examples=60)
def test_near_share_by_a_loop(seed, k, period, degrees):
    angles, weights = drawn(seed, k, period)
    turns, total = 2 * np.pi / period, 0.0
    for i in range(k):
        for j in range(k):
            cosine = math.cos(turns * (angles[i] - angles[j]))  # on the whole circle
            if math.degrees(math.acos(max(-1, min(1, cosine)))) / turns <= degrees + 1e-6:
                total += weights[i] * weights[j]
    assert near_share(angles, weights, period, degrees) == pytest.approx(total / weights.sum() ** 2)


@given(seeds, sizes, periods)
@settings(deadline=None, max_examples=60)
def test_effective_orientations_by_a_histogram(seed, k, period):
    angles, weights = drawn(seed, k, period)
    shares, _ = np.histogram(angles, 36, (-period / 2, period / 2), weights=weights)
    assert effective_orientations(angles, weights, period) == pytest.approx(np.exp(entropy(shares)))


@given(seeds, sizes)
@settings(deadline=None, max_examples=60)
def test_participation_is_the_inverse_of_meeting_the_same_neuron(seed, k):
    _, weights = drawn(seed, k)
    p = weights / weights.sum()
    assert participation(weights) == pytest.approx(1 / sum(p**2))
    assert 1 - 1e-12 <= participation(weights) <= k + 1e-9


@given(seeds, sizes, periods, st.integers(2, 4), st.floats(1e-8, 1e8))
@settings(deadline=None, max_examples=50)
def test_what_cutting_scaling_and_turning_change(seed, k, period, parts, scale):
    angles, weights = drawn(seed, k, period)
    cut = np.repeat(angles, parts), np.repeat(weights / parts, parts) * scale
    assert near_share(*cut, period) == pytest.approx(near_share(angles, weights, period))
    assert effective_orientations(*cut, period) == pytest.approx(effective_orientations(angles, weights, period))
    assert participation(cut[1]) == pytest.approx(parts * participation(weights))
    turned = near_share(angles + 1.234, weights, period)
    assert turned == pytest.approx(near_share(angles, weights, period))
    around = near_share(angles + 3 * period, weights, period), effective_orientations(angles - period, weights, period)
    assert around[0] == pytest.approx(near_share(angles, weights, period))
    assert around[1] == pytest.approx(effective_orientations(angles, weights, period))


@pytest.mark.parametrize("k", [1, 2, 3, 6])
@pytest.mark.parametrize("period", [np.pi, 2 * np.pi])
def test_k_orientations_give_k(k, period):
    groups = ((np.arange(k) + 0.4) / k - 0.5) * period
    angles, weights = np.tile(groups, 50), np.ones(50 * k)
    assert effective_orientations(angles, weights, period) == pytest.approx(k)
    assert near_share(angles, weights, period) == pytest.approx(1 / k)
    assert participation(weights) == pytest.approx(50 * k)


def test_even_spread_and_one_giant():
    angles = np.linspace(-np.pi, np.pi, 3600, endpoint=False)
    assert near_share(angles, np.ones(3600), 2 * np.pi) == pytest.approx(10 / 360, rel=0.02)
    assert effective_orientations(angles, np.ones(3600), 2 * np.pi) == pytest.approx(36, rel=1e-3)
    giant = np.where(np.arange(3600) == 7, 1.0, 1e-12)
    assert near_share(angles, giant, 2 * np.pi) == pytest.approx(1)
    assert participation(giant) == pytest.approx(1)


@given(seeds, st.integers(2, 25))
@settings(deadline=None, max_examples=30)
def test_a_neuron_is_always_near_itself(seed, k):
    angles, weights = drawn(seed, k)
    assert near_share(angles, weights, 2 * np.pi) >= 1 / participation(weights) - 1e-12
    apart = np.arange(k) * 2 * np.pi / k
    assert near_share(apart, weights, 2 * np.pi) == pytest.approx(1 / participation(weights))


def test_measures_take_the_amplitude_or_one_of_its_sides():
    a, w, b = np.random.default_rng(0).normal(size=(3, 40))
    n = neurons(a, w, b, odd=True)
    for weights, chosen in ((None, n.amplitude), (n.output, abs(a)), (n.input, np.hypot(w, b))):
        assert measures(n, weights) == {
            "near": pytest.approx(near_share(n.angle, chosen, np.pi)),
            "orientations": pytest.approx(effective_orientations(n.angle, chosen, np.pi)),
            "participation": pytest.approx(participation(chosen)),
        }


# ---- the output ----


@given(seeds, st.integers(1, 8))
@settings(deadline=None, max_examples=40)
def test_the_kinks_of_a_relu_net_add_up(seed, k):
    rng = np.random.default_rng(seed)
    x = np.linspace(-1, 1, 201)
    at, slopes = rng.choice(np.arange(1, 200), k, replace=False), rng.normal(size=k)
    f = np.maximum(x[:, None] - x[at], 0) @ slopes + 0.3 * x
    assert kink_mass(x, f) == pytest.approx(abs(slopes).sum())


@given(seeds, st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_variation_of_waves(seed, k):
    x = np.linspace(0, 2 * np.pi, 2000 * k + 1)
    height = np.random.default_rng(seed).uniform(0.1, 5)
    assert total_variation(height * np.sin(k * x)) == pytest.approx(4 * k * height, rel=1e-5)
    assert kink_mass(x, height * np.sin(k * x)) == pytest.approx(4 * k**2 * height, rel=0.01)
    rising = np.sort(np.random.default_rng(seed).normal(size=50))
    assert total_variation(rising) == pytest.approx(np.ptp(rising))


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda: neurons([1.0], [1.0, 2.0], [1.0]), "w and b must have a's shape"),
        (lambda: neurons([1.0, np.nan], [1.0, 2.0], [1.0, 1.0]), "a has NaN"),
        (lambda: neurons([], [], []), "w is empty"),
        (lambda: neurons([1.0], [1.0], [1.0], alive_on=(2, 1)), "alive_on must be"),
        (lambda: neurons([1.0], [1.0], [1.0], alive_on=(1, 2, 3)), "alive_on must be"),
        (lambda: neurons([1.0], [1.0], [-9.0], alive_on=(0, 1)), "alive_on leaves no neuron"),
        (lambda: near_share([0.0, 1.0], [1.0], np.pi), "weights must have angles' shape"),
        (lambda: near_share([0.0, 1.0], [1.0, -1.0], np.pi), "weights must not be negative"),
        (lambda: near_share([0.0, 1.0], [0.0, 0.0], np.pi), "weights must not be negative, and not all zero"),
        (lambda: near_share([0.0], [1.0], 0), "period"),
        (lambda: near_share([0.0], [1.0], np.pi, degrees=0), "degrees"),
        (lambda: near_share([np.inf], [1.0], np.pi), "angles has NaN"),
        (lambda: effective_orientations([0.0], [1.0], np.pi, bins=1), "bins"),
        (lambda: participation([]), "weights is empty"),
        (lambda: total_variation([1.0]), "f needs 2 values"),
        (lambda: kink_mass([0, 1], [0, 1]), "x and f need"),
        (lambda: kink_mass([0, 2, 1], [0, 1, 2]), "x must be strictly increasing"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()
