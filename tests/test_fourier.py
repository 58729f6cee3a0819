"""Spectra against explicit sums of the discrete Fourier transform, and against functions whose spectrum is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikenb import networks
from spikenb.measure.fourier import lfp, points, power, random_differences


def explicit(f):
    """P(k) by the defining sum over every k from -(n-1)/2 to n/2, no FFT."""
    n = len(f)
    found = np.zeros(n // 2 + 1)
    for k in range(-((n - 1) // 2), n // 2 + 1):
        transform = sum(f[j] * np.exp(-2j * np.pi * j * k / n) for j in range(n)) / n
        found[abs(k)] += abs(transform) ** 2
    return found


functions = st.builds(
    lambda seed, n, size: size * np.random.default_rng(seed).normal(size=n),
    st.integers(0, 1000), st.integers(3, 41), st.sampled_from([1e-9, 1.0, 1e6]),
)  # fmt: skip


@given(functions)
@settings(deadline=None, max_examples=40)
def test_power_is_the_explicit_sum_and_keeps_the_mean_square(f):
    assert np.allclose(power(f), explicit(f), rtol=1e-8, atol=1e-20)
    assert power(f).sum() == pytest.approx((f**2).mean())


@given(functions, st.booleans())
@settings(deadline=None, max_examples=40)
def test_lfp_is_the_explicit_ratio(f, mean):
    K = np.arange(len(f) // 2 + 1)
    powers = explicit(f)
    powers[0] *= mean
    expected = [powers[: k + 1].sum() / powers.sum() for k in K]
    found = lfp(f, K, mean=mean)
    assert np.allclose(found, expected, atol=1e-8)
    assert found[-1] == pytest.approx(1) and (np.diff(found) >= 0).all()
    assert lfp(f, 1, mean=mean) == pytest.approx(expected[1], abs=1e-8)


@given(functions, st.floats(-5, 5), st.floats(0.1, 10), st.integers(0, 50))
@settings(deadline=None, max_examples=40)
def test_what_lfp_does_not_see(f, offset, scale, shift):
    """Its scale, a shift along the period, and, without the mean, an offset."""
    offset *= abs(f).max()
    changed = scale * np.roll(f, shift) + offset
    K = np.arange(len(f) // 2 + 1)
    assert np.allclose(lfp(changed, K), lfp(f, K), atol=1e-6)


@pytest.mark.parametrize("n", [40, 41, 400])
def test_sines_have_their_power_where_they_should(n):
    x = points(-np.pi, np.pi, n)
    f = 5 + 3 * np.sin(x) - 2 * np.cos(4 * x)
    expected = np.zeros(n // 2 + 1)
    expected[[0, 1, 4]] = 25, 4.5, 2
    assert np.allclose(power(f), expected)
    assert np.allclose(lfp(f, [0, 1, 3, 4]), [0, 9 / 13, 9 / 13, 1])
    assert np.allclose(lfp(f, [0, 1, 4], mean=True), [25 / 31.5, 29.5 / 31.5, 1])
    assert lfp(np.stack([f, -f]), [1, 2, 3]).shape == (2, 3) and lfp(f, 1).shape == ()


def test_the_period_of_another_interval():
    x = points(2, 6, 50)
    assert x[0] == 2 and x[-1] == pytest.approx(6 - 4 / 50) and len(x) == 50
    assert power(np.sin(2 * np.pi * 3 * x / 4))[3] == pytest.approx(0.5)


def test_the_highest_frequency_counts_once():
    assert np.allclose(power([1.0, -1.0, 1.0, -1.0]), [0, 0, 1])


def test_random_differences_are_differences_at_the_radius():
    net = networks.TwoLayer(5)
    theta = networks.normal(net).numpy()
    seen = []
    same = random_differences(lambda t: seen.append(t) or t, theta, 0.3, count=20)
    assert same.shape == (20, net.dim) and np.allclose(np.linalg.norm(same, axis=1), 0.3)
    assert np.array_equal(seen[-1], theta)  # the outputs at θ are taken once
    again = random_differences(lambda t: t, theta, 0.6, count=20)
    assert np.allclose(again, 2 * same)  # the same directions, whatever the radius
    other = random_differences(lambda t: t, theta, 0.3, count=20, seed=1)
    assert not np.allclose(other, same)
    directions = random_differences(lambda t: t, np.zeros(3), 1.0, count=20_000)
    assert abs(directions.mean(axis=0)).max() < 0.02
    assert np.allclose(directions.T @ directions / 20_000, np.eye(3) / 3, atol=0.02)


def test_random_differences_of_a_net_are_its_outputs():
    net, x = networks.TwoLayer(4), points(-np.pi, np.pi, 30)
    theta = networks.normal(net).numpy()

    def outputs(t):
        a, w, b, c = np.split(t, [4, 8, 12])
        return np.tanh(np.multiply.outer(x, w) + b) @ a + c

    steps = random_differences(lambda t: t, theta, 0.1, count=3, seed=5)
    found = random_differences(outputs, theta, 0.1, count=3, seed=5)
    assert np.allclose(found, [outputs(theta + s) - outputs(theta) for s in steps])


@pytest.mark.parametrize(
    "call, error, name",
    [
        (lambda: power([]), ValueError, "f is empty"),
        (lambda: power([1.0, 2.0]), ValueError, "f needs 3 points"),
        (lambda: power(1.0), ValueError, "f needs 3 points"),
        (lambda: power([1.0, np.nan, 1.0]), ValueError, "f has NaN"),
        (lambda: lfp([1.0, 2.0, 1.0], 2), ValueError, "K must be from 0 to 1"),
        (lambda: lfp([1.0, 2.0, 1.0], -1), ValueError, "K must be from 0 to 1"),
        (lambda: lfp([1.0, 2.0, 1.0], []), (TypeError, ValueError), "K must be"),
        (lambda: lfp([1.0, 2.0, 1.0], 0.5), TypeError, "K must be whole numbers"),
        (lambda: lfp([0.1, 0.1, 0.1], 1), ValueError, "f has a function that is constant"),
        (lambda: lfp([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0]], 1, mean=True), ValueError, "f has a function that is zero"),
        (lambda: points(1, 1, 5), ValueError, "low must be below high"),
        (lambda: points(0, 1, 2), ValueError, "n must be at least 3"),
        (lambda: random_differences(np.sin, [[0.0]], 1.0), ValueError, "theta must have 1"),
        (lambda: random_differences(np.sin, [0.0], 0.0), ValueError, "radius"),
        (lambda: random_differences(np.sin, [0.0], 1.0, count=0), ValueError, "count"),
    ],
)
def test_bad_input_is_named(call, error, name):
    with pytest.raises(error, match=name):
        call()
