"""Projections on directions against explicit sums, quadratic losses and functions whose crossings are known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikenb.measure.directions import explained, losses_along, project, zero_crossings


def basis(seed, dim, k):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, k)))[0]


cases = st.tuples(st.integers(0, 1000), st.integers(2, 12)).flatmap(
    lambda c: st.tuples(st.just(c[0]), st.just(c[1]), st.integers(1, c[1]))
)


@given(cases, st.sampled_from([1e-8, 1.0, 1e8]))
@settings(deadline=None, max_examples=40)
def test_projection_is_the_inner_product_and_a_basis_holds_all(case, size):
    seed, dim, k = case
    v, d = basis(seed, dim, k), size * np.random.default_rng(seed + 1).normal(size=dim)
    found = project(d, v)
    for i in range(k):
        expected = sum(d[j] * v[j, i] for j in range(dim))
        assert found.values[i] == pytest.approx(expected, abs=1e-12 * size)
        assert found.shares[i] == pytest.approx(expected**2 / sum(x * x for x in d))
    assert found.shares.sum() <= 1 + 1e-12
    if k == dim:
        assert found.shares.sum() == pytest.approx(1)
        assert np.allclose(v @ found.values, d)


@given(cases)
@settings(deadline=None, max_examples=40)
def test_losses_along_eigenvectors_of_a_quadratic_lose_their_terms(case):
    """R(θ) = ½(θ - θ*)ᵀH(θ - θ*) from θ to θ*: each direction takes its ½λp² away."""
    seed, dim, k = case
    rng = np.random.default_rng(seed)
    v, lam, d = basis(seed, dim, dim), rng.uniform(0, 9, dim), rng.normal(size=dim)
    theta = rng.normal(size=dim)
    loss = lambda t: 0.5 * (t - theta - d) @ (v * lam @ v.T) @ (t - theta - d)  # noqa: E731
    terms = 0.5 * lam * (v.T @ d) ** 2
    expected = [terms[i:].sum() for i in range(k + 1)]
    found = losses_along(loss, theta, d, v[:, :k], range(k + 1))
    assert np.allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_tensors_and_single_precision_are_taken():
    v = torch.eye(3)[:, :2]
    assert project(torch.tensor([3.0, 0.0, 4.0]), v).shares.tolist() == pytest.approx([9 / 25, 0])
    assert losses_along(lambda t: t.sum(), torch.ones(3), torch.ones(3), v, [0, 2]).tolist() == [3, 5]


def test_order_of_counts_is_kept():
    loss = lambda t: (t**2).sum()  # noqa: E731
    assert losses_along(loss, np.zeros(2), np.ones(2), np.eye(2), [2, 0, 1]).tolist() == [2, 0, 1]


@pytest.mark.parametrize("k", range(1, 8))
def test_crossings_of_sines(k):
    x = np.linspace(0.01, 2 * np.pi - 0.02, 999)
    assert zero_crossings(np.sin(k * x)) == 2 * k - 1
    assert zero_crossings(np.stack([np.sin(k * x), 1 + x])).tolist() == [2 * k - 1, 0]


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=30))
def test_crossings_by_walking_along(values):
    count, last = 0, 0
    for v in values:
        if v and last and (v > 0) != (last > 0):
            count += 1
        last = v or last
    assert zero_crossings(values) == count
    assert zero_crossings(-3.0 * np.array(values)) == count


def test_explained_is_the_explicit_ratio():
    lam = np.array([4.0, -2.0, 1.0])
    assert explained(lam).tolist() == pytest.approx([16 / 21, 20 / 21, 1])


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda: project([0.0, 0.0], np.eye(2)), "displacement"),
        (lambda: project([1.0, np.nan], np.eye(2)), "displacement"),
        (lambda: project([1.0, 2.0], np.eye(3)), "vectors"),
        (lambda: project([1.0, 2.0], np.ones((2, 2))), "vectors"),
        (lambda: project([1.0, 2.0], np.eye(2)[0]), "vectors"),
        (lambda: losses_along(sum, np.ones(3), np.ones(2), np.eye(2), [1]), "theta"),
        (lambda: losses_along(sum, np.ones(2), np.ones(2), np.eye(2), [3]), "counts"),
        (lambda: losses_along(sum, np.ones(2), np.ones(2), np.eye(2), [-1]), "counts"),
        (lambda: explained(np.zeros(3)), "values"),
        (lambda: zero_crossings(1.0), "f"),
        (lambda: zero_crossings([]), "f"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(ValueError, match=f"^{name} "):
        call()
