"""Spectra against numpy, spikes and planes against constructed ones."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikenb import data, networks
from spikenb.curvature import critical_learning_rate, spectrum, top_eigenvalue
from spikenb.measure.landscape import cut, pca_plane, surface
from spikenb.measure.spikes import find_spikes
from spikenb.problem import Fit, Problem


@given(st.integers(0, 1000), st.integers(1, 8))
@settings(deadline=None, max_examples=30)
def test_spectrum_of_a_known_matrix(seed, dim):
    rng = np.random.default_rng(seed)
    values = np.sort(rng.normal(size=dim))[::-1]
    q = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    a = torch.from_numpy(q * values @ q.T)
    problem, theta = Problem(lambda t: t @ a @ t / 2, dim), rng.normal(size=dim)
    found = spectrum(problem, theta)
    assert np.allclose(found.values, values)
    assert np.allclose(a.numpy() @ found.vectors, found.vectors * found.values)
    assert top_eigenvalue(problem, theta) == pytest.approx(values[0])
    expected = 2 / values[0] if values[0] > 0 else np.inf
    assert critical_learning_rate(problem, theta) == pytest.approx(expected)


def test_spectrum_of_a_net_is_torch_func_hessian():
    net = networks.TwoLayer(20)
    fit = Fit(net, *data.grid("sin x + sin 4x", -2.5, 2.5, 40))
    theta = networks.normal(net)
    dense = torch.func.hessian(lambda t: ((net(t, fit.x) - fit.y) ** 2).mean())(theta)
    assert np.allclose(spectrum(fit, theta).values, np.linalg.eigvalsh(dense)[::-1], atol=1e-10)


def test_what_a_dense_spectrum_refuses():
    with pytest.raises(ValueError, match="2001 parameters"):
        spectrum(Problem(lambda t: (t**2).sum(), 2001), np.zeros(2001))
    with pytest.raises(FloatingPointError, match="Hessian"):
        top_eigenvalue(Problem(lambda t: (t**4).sum(), 1), [1e200])


def bumps(length, places, height, width=4):
    t = np.arange(length)
    return 1 + sum((height * np.exp(-(((t - p) / width) ** 2)) for p in places), np.zeros(length))


@given(st.lists(st.integers(0, 9), unique=True, max_size=4).map(sorted), st.floats(5, 1e4))
@settings(deadline=None, max_examples=50)
def test_every_planted_spike_is_found(tens, height):
    places = [100 + 200 * t for t in tens]
    found = find_spikes(bumps(2100, places, height), window=90)
    assert [s.step for s in found] == places
    for spike in found:
        assert spike.ratio == pytest.approx(1 + height, rel=1e-3)
        assert spike.start < spike.step < spike.end < spike.step + 40


def test_what_is_no_spike():
    assert find_spikes(bumps(500, [250], 1.9)) == []  # too low
    assert find_spikes(np.exp(np.linspace(0, 9, 900))) == []  # rises and stays
    assert find_spikes(np.linspace(9, 1, 900)) == []
    assert find_spikes(np.ones(50)) == []


@pytest.mark.parametrize("loss", [[], [1.0, np.nan, 1.0], [1.0, 0.0, 1.0], [[1.0, 2.0]], [1.0, -1.0]])
def test_bad_losses_are_named(loss):
    with pytest.raises(ValueError, match="loss"):
        find_spikes(loss)


def test_bad_detector_settings():
    with pytest.raises(ValueError, match="window"):
        find_spikes([1.0, 2.0], window=0)
    with pytest.raises(ValueError, match="ratio"):
        find_spikes([1.0, 2.0], ratio=1.0)


@given(st.integers(0, 1000), st.integers(2, 12), st.integers(3, 30))
@settings(deadline=None, max_examples=30)
def test_plane_of_a_planar_trajectory_explains_everything(seed, dim, steps):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(dim, 2)))[0].T
    trajectory = rng.normal(size=dim) + rng.normal(size=(steps, 2)) @ basis
    plane = pca_plane(trajectory)
    assert plane.explained.sum() == pytest.approx(1)
    assert np.allclose(plane.axes @ plane.axes.T, np.eye(2))
    assert np.allclose(plane.origin + plane.coordinates @ plane.axes, trajectory)


def test_plane_is_that_of_scikit_learn_up_to_the_centre():
    rng = np.random.default_rng(0)
    trajectory = np.cumsum(rng.normal(size=(50, 6)), axis=0)
    moved = trajectory - trajectory[-1]
    values = np.linalg.eigvalsh(moved.T @ moved)[::-1]
    assert np.allclose(pca_plane(trajectory).explained, values[:2] / values.sum())


def test_cuts_and_surfaces_are_the_loss():
    problem = Problem(lambda t: t[0] ** 2 + 3 * t[1], 2)
    assert np.allclose(cut(problem.loss, [1.0, 1.0], [1.0, 0.0], [-1, 0, 1]), [3, 4, 7])
    heights = surface(problem.loss, [0, 0], np.eye(2), [0, 1, 2], [0, 1])
    assert heights.shape == (2, 3) and np.allclose(heights, [[0, 1, 4], [3, 4, 7]])


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda: pca_plane(np.zeros((5, 3))), "trajectory never moves"),
        (lambda: pca_plane(np.zeros((2, 3))), "trajectory needs"),
        (lambda: pca_plane(np.full((5, 3), np.nan)), "trajectory has NaN"),
        (lambda: cut(np.sum, [0.0], [1.0, 2.0], [0.0]), "direction"),
        (lambda: surface(np.sum, [0.0], np.eye(2), [0], [0]), "axes"),
        (lambda: cut(np.sum, [0.0], [1.0], []), "distances is empty"),
    ],
)
def test_bad_landscapes(call, name):
    with pytest.raises(ValueError, match=name):
        call()
