"""Spikes of an SGD loss, the kernel norm around them, and match rates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spikenb.measure.catapults import match, norm_ratios, quiet_steps, rise_shares, sgd_spikes

positive = arrays(float, st.integers(3, 60), elements=st.floats(1e-3, 1e3))


def test_a_spike_by_hand():
    loss = np.array([1.0, 0.9, 0.8, 1.0, 1.3, 0.7, 0.69, 0.7, 0.68])
    (spike,) = sgd_spikes(loss)
    assert spike == (4, 1.3, 0.8, 0.68, 2, 5)
    assert sgd_spikes(loss, ratio=1.7) == []
    assert sgd_spikes(loss, window=1) == []  # 1.3 is no 1.5 times the step before


@settings(max_examples=100, deadline=None)
@given(loss=positive, window=st.integers(1, 12), ratio=st.floats(1.1, 4), scale=st.floats(1e-3, 1e3))
def test_spikes_are_what_the_definition_says(loss, window, ratio, scale):
    found = sgd_spikes(loss, window, ratio)
    slow = [
        t
        for t in range(1, len(loss) - 1)
        if loss[t] > loss[t - 1] and loss[t] >= loss[t + 1] and loss[t] >= ratio * min(loss[max(0, t - window) : t])
    ]
    assert [s.step for s in found] == slow
    for s in found:
        assert s.start < s.step <= s.end <= s.step + window and loss[s.start] == s.before and s.ratio >= ratio
    times_two = 2.0 ** round(np.log2(scale))  # exact in floating point
    assert [s.step for s in sgd_spikes(loss * times_two, window, ratio)] == slow


@settings(max_examples=100, deadline=None)
@given(norm=positive, ahead=st.integers(0, 8), scale=st.sampled_from([0.25, 8.0]))
def test_ratios_do_not_depend_on_the_unit(norm, ahead, scale):
    steps = np.arange(1, len(norm))
    ratios = norm_ratios(norm, steps, ahead)
    assert (ratios <= norm[1:] / norm[:-1]).all() and (ratios > 0).all()
    assert np.array_equal(ratios, norm_ratios(scale * norm, steps, ahead))
    assert (norm_ratios(np.sort(norm), steps, ahead) >= 1).all()


@settings(max_examples=100, deadline=None)
@given(length=st.integers(1, 80), ahead=st.integers(0, 8), steps=st.lists(st.integers(1, 79), max_size=6))
def test_quiet_windows_share_no_step_with_a_spikes(length, ahead, steps):
    taken = {i for s in steps for i in range(s - 1, s + ahead + 1)}
    expected = [t for t in range(1, length) if t + ahead < length and not taken & set(range(t - 1, t + ahead + 1))]
    assert quiet_steps(length, steps, ahead).tolist() == expected


def test_shares_of_a_rise_add_up():
    top = np.array([0.5, 0.4, 0.3, 2.0, 0.2, 0.1])
    rest = np.array([0.5, 0.5, 0.5, 0.4, 0.4, 0.4])
    spikes = sgd_spikes(top + rest)
    shares = rise_shares(top + rest, top, spikes)
    assert shares == pytest.approx([1.7 / 1.6]) and shares + rise_shares(top + rest, rest, spikes) == pytest.approx(1)


@settings(max_examples=100, deadline=None)
@given(pairs=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50))
def test_match_is_a_conditional_probability(pairs):
    rises, over = map(np.array, zip(*pairs, strict=True))
    m = match(rises, over)
    assert (m.rises, m.over, m.steps) == (rises.sum(), over.sum(), len(pairs))
    assert m.base == over.mean()
    if rises.any():
        assert m.rate == over[rises].mean()
    if over.any():
        assert m.converse == rises[over].mean()
        assert not rises.any() or m.rate * m.rises == pytest.approx(m.converse * m.over)  # Bayes


def test_bad_calls_name_the_argument():
    for call, message in (
        (lambda: sgd_spikes([1.0, 0.0, 1.0]), "loss must be positive"),
        (lambda: sgd_spikes([1.0, 2.0], ratio=1.0), "ratio must be above 1"),
        (lambda: sgd_spikes([1.0, 2.0], window=0), "window"),
        (lambda: norm_ratios([1.0, 2.0], [2]), "steps must lie between 1 and 1"),
        (lambda: norm_ratios([1.0, -2.0], [1]), "norm must be positive"),
        (lambda: rise_shares([1.0, 2.0], [1.0], []), "part must have the shape"),
        (lambda: match([True], [True, False]), "one length"),
        (lambda: match([], []), "one length"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
