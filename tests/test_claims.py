"""The claims data, the judge, and the stored verdicts of every chapter."""

import json
import re

import pytest
from conftest import CHAPTERS

from spikenb.book import claims

SETTLED = {id: row for id, row in claims.table().items() if "tests" in row}
STORED = {row["id"]: row for path in CHAPTERS for row in claims.stored(path)}
METRICS = {id: raw for path in CHAPTERS for id, raw in claims.metrics(path).items()}


def test_every_claim_of_the_sources_has_a_row():
    counts = {s: sum(id.startswith(s + "-") for id in claims.table()) for s in claims.SOURCES}
    assert counts == {"Z": 27, "C": 38, "S": 3, "L": 8}


@pytest.mark.parametrize("id", claims.table())
def test_rows_are_complete(id):
    row = claims.table()[id]
    assert row["claim"] and row["where"] and 1 <= row["chapter"] <= 15
    if id in SETTLED:
        assert {"criterion", "control", "ours", "count"} <= row.keys() and "start" not in row
        for test in row["tests"] + row.get("part", {}).get("tests", []):
            assert len(test) == 2 and "metric" in test
    else:
        assert row["start"]


def test_chapters_store_exactly_the_claims_that_have_criteria():
    assert STORED.keys() == METRICS.keys() == SETTLED.keys()


@pytest.mark.parametrize("id", SETTLED)
def test_a_stored_verdict_follows_from_its_metrics(id):
    again = claims.settle(id, METRICS[id]["measured"], METRICS[id]["control"])
    assert {key: getattr(again, key) for key in STORED[id]} == STORED[id]


@pytest.mark.parametrize("id", [id for id in SETTLED if STORED[id]["verdict"] != "does not hold"])
def test_a_verdict_fed_its_control_turns(id):
    runs = METRICS[id]
    turned = claims.settle(id, runs["control"], runs["control"])
    assert STORED[id]["verdict"] in ("holds", "holds in part")
    assert turned.verdict == "does not hold" and turned.met == 0


def meets(test):
    """A value that passes the test."""
    value = test.get("near", [None])[0]
    return (
        value if value is not None else test.get("at_least", test.get("above", test.get("below", test.get("at_most"))))
    )


@pytest.mark.parametrize("id", [id for id in SETTLED if STORED[id]["verdict"] == "does not hold"])
def test_a_claim_that_does_not_hold_could_have(id):
    measured = METRICS[id]["measured"][0] | {t["metric"]: meets(t) for t in claims.table()[id]["tests"]}
    assert claims.settle(id, measured, METRICS[id]["control"]).verdict == "holds"


@pytest.mark.parametrize("id", [id for id in SETTLED if id != "Z-f3c"])  # its control has no spike to measure
def test_a_control_fails_by_its_numbers(id):
    """At least one of the criterion's metrics is measured on every control, and fails; NaN alone would prove little."""
    tests = claims.table()[id]["tests"]
    for run in METRICS[id]["control"]:
        assert any(run[t["metric"]] is not None and not claims.passes(t, run) for t in tests)


@pytest.mark.parametrize("id", [id for id in SETTLED if STORED[id]["verdict"] != "does not hold"])
def test_a_control_that_passes_settles_nothing(id):
    runs = METRICS[id]
    assert claims.settle(id, runs["measured"], runs["measured"]).verdict == "not settled here"


@pytest.mark.parametrize(
    "test, value, expected",
    [
        ({"near": [2.0, 0.1]}, 2.05, True),
        ({"near": [2.0, 0.1]}, 2.2, False),
        ({"at_least": 1.0}, 1.0, True),
        ({"at_most": 1.0}, 1.1, False),
        ({"above": 1.0}, 1.0, False),
        ({"below": 1.0}, 0.9, True),
        ({"at_least": 1.0}, float("nan"), False),
        ({"near": [2.0, 0.1]}, float("nan"), False),
    ],
)
def test_each_kind_of_test(test, value, expected):
    assert claims.passes({"metric": "m", **test}, {"m": value}) is expected


def test_counts_over_seeds_decide():
    good, bad = METRICS["Z-f1"]["measured"][0], METRICS["Z-f1"]["control"][0]
    nine = claims.settle("Z-f1", [good] * 9 + [bad], bad)
    assert (nine.verdict, nine.met, nine.runs) == ("holds in part", 9, 10)
    eight = claims.settle("Z-f1", [good] * 8 + [bad] * 2, bad)
    assert eight.verdict == "does not hold"
    full = dict(good, resampling_ratio=5.0)
    assert claims.settle("Z-f1", [full] * 10, bad).verdict == "holds"


@pytest.mark.parametrize(
    "id, measured, name",
    [
        ("Z-s9", {}, "id must be one of"),
        ("C-f14", {}, "id 'C-f14' has no criterion"),
        ("Z-f3d", {}, "measured lacks the metric.*match"),
        ("Z-f3d", [], "measured is empty"),
    ],
)
def test_bad_calls_name_the_argument(id, measured, name):
    with pytest.raises(ValueError, match=name):
        claims.settle(id, measured, {"match": 0})


def test_an_unknown_source_of_an_erratum():
    with pytest.raises(ValueError, match="source must be one of"):
        claims.erratum("Q", "", "", "", "")


def test_html_is_escaped_and_json_is_plain():
    shown, metadata = claims.show(
        claims.settle("Z-f3d", METRICS["Z-f3d"]["measured"], {"match": 0})
    )._repr_mimebundle_()
    assert "<script" not in shown["text/html"] and "x&gt;" not in shown["text/plain"]
    json.dumps([shown, metadata])
    assert re.search(r'id="claim-Z-f3d"', shown["text/html"])
