"""Figures that the reader moves: they compute in the page itself, with no kernel and no library."""

import html
import json
import re
from importlib.resources import files
from typing import NamedTuple

from IPython.display import HTML

from .. import _checks
from .plots import COLORS


class Control(NamedTuple):
    """A range input: its name in `compute`'s argument, its label, its ends, step and first value."""

    name: str
    label: str
    low: float
    high: float
    step: float
    value: float


class Line(NamedTuple):
    """A line: the keys of its x and y in what `compute` returns, a role of `plots.COLORS` (or "valley",
    grey), an SVG dash pattern, and whether its points are marked."""

    x: str
    y: str
    role: str
    dash: str = ""
    dots: bool = False


class Panel(NamedTuple):
    """A pair of axes with its lines; `threshold` is (y, label), the limits are (low, high)."""

    lines: list
    xlabel: str
    ylabel: str
    logy: bool = False
    xlim: tuple | None = None
    ylim: tuple | None = None
    threshold: tuple | None = None


def live(name, compute, controls, panels, data=None):
    """A live figure, as an HTML display.

    Parameters
    ----------
    name : str
        Letters, digits and hyphens, unique on the page.
    compute : str
        A JavaScript function of an object with the controls' values, and of `data`; it returns an object of arrays, the
        panels' lines, and `say`, one sentence that tells what is seen (screen readers get it too).
    controls : list of Control
    panels : list of Panel
    data : optional
        What a run measured, to be shown: anything that JSON takes. Round it first.

    Tests call the same function as `document.getElementById("live-<name>").compute({…})`.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise ValueError(f"name must be lower-case letters, digits and hyphens, not {name!r}")
    for panel in panels:
        for line in panel.lines:
            _checks.choice("role", line.role, [*COLORS, "valley"])
    for c in controls:
        if not c.low <= c.value <= c.high:
            raise ValueError(f"control {c.name!r} must start between {c.low} and {c.high}, not at {c.value}")
    rows = "".join(
        f'<div class="control"><label for="live-{name}-{c.name}">{html.escape(c.label)}</label>'
        f'<input type="range" id="live-{name}-{c.name}" name="{c.name}" min="{c.low}" max="{c.high}"'
        f' step="{c.step}" value="{c.value}" autocomplete="off">'
        f'<output for="live-{name}-{c.name}">{c.value}</output></div>'
        for c in controls
    )
    plots = '<svg viewBox="0 0 420 260" role="img"></svg>' * len(panels)
    spec = json.dumps([{**p._asdict(), "lines": [line._asdict() for line in p.lines]} for p in panels])
    style, script = (files("spikenb.book").joinpath(f"live.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return HTML(
        f'<div class="spike-live" id="live-{name}" role="group" aria-label="Live figure">'
        f'{rows}<div class="panels">{plots}</div><p class="spike-say" aria-live="polite"></p>'
        f"<noscript>This figure computes in the page and needs scripts.</noscript></div>"
        f"<style>{style}</style><script>(() => {{{script}\n"
        f'spikenbLive(document.getElementById("live-{name}"), {spec}, {compute.strip()}, {json.dumps(data)});'
        "})();</script>"
    )
