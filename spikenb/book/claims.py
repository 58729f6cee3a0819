"""The claims of the sources, and the verdicts that the chapters compute.

`claims.toml` holds every claim with its criterion, written before the run it judges. A chapter hands what
it measured, and what the same metrics are on a control where the effect should be absent, to `settle`;
`show` prints the verdicts and stores them in the notebook, where the board finds them.
"""

import html
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from .. import _checks

MIME = "application/vnd.spikenb.claims+json"
ERRATA_MIME = "application/vnd.spikenb.errata+json"
SOURCES = {
    "Z": "Loss Spike in Training Neural Networks",
    "C": "Catapults in SGD",
    "S": "Catapults in SGD, slides",
    "L": "There is a Singularity in the Loss Landscape",
}
VERDICTS = ("holds", "holds in part", "does not hold", "not settled here")


@cache
def table():
    """Every claim: a dict from its id to its row of claims.toml."""
    return tomllib.loads(files("spikenb.book").joinpath("claims.toml").read_text(encoding="utf-8"))


def passes(test, metrics):
    """Whether the metrics meet one test of claims.toml; NaN meets none."""
    value = metrics[test["metric"]]
    if "near" in test:
        target, tolerance = test["near"]
        return bool(abs(value - target) <= tolerance)
    compare = {
        "at_least": lambda v, bound: v >= bound,
        "at_most": lambda v, bound: v <= bound,
        "above": lambda v, bound: v > bound,
        "below": lambda v, bound: v < bound,
    }
    (rule,) = test.keys() - {"metric"}
    return bool(compare[rule](value, test[rule]))


def met(tests, runs):
    """In how many of the runs every test is passed."""
    return sum(all(passes(test, run) for test in tests) for run in runs)


@dataclass(frozen=True)
class Settled:
    """A claim with its verdict, and everything the verdict was computed from."""

    id: str
    verdict: str
    ours: str
    met: int
    runs: int
    note: str
    control_met: int
    measured: list
    control: list


def settle(id, measured, control):
    """Judge a claim by its criterion.

    Parameters
    ----------
    id : str
        A claim that has a criterion in claims.toml.
    measured : dict, or list of dicts
        The metrics of one run, or of one run a seed; NaN (or None) for one that could not be measured, such as
        the height of a spike that is not there.
    control : dict, or list of dicts
        The same metrics where the effect should be absent. If the control meets the criterion as well, the
        criterion cannot tell, and the verdict is "not settled here".

    Returns
    -------
    Settled
        Its verdict is "holds" if the criterion is met in count[0] of count[1] runs (scaled to as many as
        there are), "holds in part" if the narrower statement is, else "does not hold".
    """
    row = table()[_checks.choice("id", id, table())]
    if "tests" not in row:
        raise ValueError(f"id {id!r} has no criterion in claims.toml yet; write it before the run it judges")
    needed = {test["metric"] for test in row["tests"]}
    measured, control = _runs("measured", measured, needed), _runs("control", control, needed)
    share = row["count"][0] / row["count"][1]

    def holds(tests, runs):
        return met(tests, runs) >= share * len(runs) - 1e-9

    part = row.get("part")
    tests, verdict, note = row["tests"], "does not hold", ""
    if holds(tests, measured):
        verdict = "holds"
    elif part and holds(part["tests"], measured):
        tests, verdict, note = part["tests"], "holds in part", f"{part['statement']}; {part['left_out']}"
    if verdict != "does not hold" and holds(tests, control):
        verdict, note = "not settled here", "the control meets the criterion as well, so it cannot tell"
    ours = row["ours"].format_map(_Metrics(measured[0]))
    hits, control_met = met(tests, measured), met(tests, control)
    return Settled(id, verdict, ours, hits, len(measured), note, control_met, measured, control)


class _Metrics(dict):
    """Metrics of which some, that no test needs, may be missing."""

    def __missing__(self, key):
        return math.nan


def _runs(name, runs, needed):
    runs = [runs] if isinstance(runs, Mapping) else list(runs)
    if not runs:
        raise ValueError(f"{name} is empty; it needs the metrics of one run at least")
    for run in runs:
        if missing := needed - run.keys():
            raise ValueError(f"{name} lacks the metric(s) {', '.join(sorted(missing))}")
    return [{key: math.nan if v is None else float(f"{v:.6g}") for key, v in sorted(run.items())} for run in runs]


class _Shown:
    """Text, HTML and the stored data of one notebook output; `raw` goes where nbval does not compare last digits."""

    def __init__(self, text, page, mime, data, raw=None):
        self._bundle = {"text/plain": text, "text/html": page, mime: data}
        self._metadata = {mime: raw} if raw else {}

    def _repr_mimebundle_(self, include=None, exclude=None):
        return self._bundle, self._metadata


def show(*settled):
    """Print one line a claim: the source's number, ours, and the verdict. The last line of a cell."""
    text, rows = [], []
    for s in settled:
        row = table()[s.id]
        text.append(
            f"{s.id}: {s.verdict} ({s.met} of {s.runs})\n  claim:   {row['claim']}\n  source:  {row['source']}"
            f"\n  ours:    {s.ours}"
            f"\n  control: {row['control']}; meets the criterion in {s.control_met} of {len(s.control)}"
            + (f"\n  note:    {s.note}" if s.note else "")
        )
        cells = [
            f'<th scope="row" id="claim-{s.id}">{s.id}</th>',
            _cell("claim", f"{row['claim']} ({SOURCES[s.id[0]]}, {row['where']})"),
            _cell("source", row["source"]),
            _cell("ours", s.ours),
            _cell("verdict", f"{s.verdict} ({s.met} of {s.runs})", verdict=s.verdict),
        ]
        control = f"control ({row['control']}): {s.control_met} of {len(s.control)}"
        notes = "".join(f"<small>{html.escape(text)}</small>" for text in (s.note, control) if text)
        notes += f"<details><summary>criterion</summary>{html.escape(row['criterion'])}</details>"
        cells[-1] = cells[-1].replace("</td>", f"{notes}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f'<th scope="col">{t}</th>' for t in ("id", "claim", "source", "ours", "verdict"))
    page = f'<table class="spike-claims"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    data = [asdict(s) for s in settled]
    raw = [{key: [_plain(run) for run in d.pop(key)] for key in ("measured", "control")} for d in data]
    return _Shown("\n".join(text), page, MIME, data, raw)


def _plain(run):
    """Metrics as JSON has them: null for what is not finite."""
    return {key: value if math.isfinite(value) else None for key, value in run.items()}


def _cell(title, text, verdict=None):
    mark = f' class="verdict-{verdict.replace(" ", "-")}"' if verdict else ""
    return f'<td data-title="{title}"{mark}>{html.escape(text)}</td>'


def erratum(source, where, says, found, evidence):
    """Record what a source has wrong or leaves unstated; shown here and on the errata page.

    `evidence` is text with the numbers that a cell computed.
    """
    _checks.choice("source", source, SOURCES)
    data = dict(source=source, where=where, says=says, found=found, evidence=evidence)
    text = f"{SOURCES[source]}, {where}\n  says:     {says}\n  found:    {found}\n  evidence: {evidence}"
    return _Shown(text, erratum_html(data), ERRATA_MIME, data)


def erratum_html(data):
    """One erratum as HTML."""
    parts = "".join(
        f"<dt>{name}</dt><dd>{html.escape(data[key])}</dd>"
        for name, key in (("The source", "says"), ("We find", "found"), ("Evidence", "evidence"))
    )
    where = html.escape(f"{SOURCES[data['source']]}, {data['where']}")
    return f'<div class="spike-erratum"><p><strong>{where}</strong></p><dl>{parts}</dl></div>'


def stored(notebook, mime=MIME):
    """What an executed notebook stored under `mime`, a list in the order of its cells."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    found = [o["data"][mime] for c in cells for o in c.get("outputs", ()) if mime in o.get("data", {})]
    return [row for data in found for row in (data if isinstance(data, list) else [data])]


def metrics(notebook):
    """What the stored verdicts were computed from: {id: {"measured": [...], "control": [...]}}."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    outputs = [o for c in cells for o in c.get("outputs", ()) if MIME in o.get("data", {})]
    return {row["id"]: raw for o in outputs for row, raw in zip(o["data"][MIME], o["metadata"][MIME], strict=True)}
