"""The Sphinx extension behind the benchmark page: its tables are read from what the benchmarks stored."""

import html
import json
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

COLUMNS = ("time", "ratio", "error", "angle", "products", "memory")


class Benchmark(SphinxDirective):
    """`{benchmark} file section`: the section's tables of results/benchmarks/<file>.json; without a section, where
    and when they were measured; with "faster" for a section, who was faster than spikenb."""

    required_arguments, optional_arguments = 1, 1

    def run(self):
        name, *section = self.arguments
        path = Path(self.env.srcdir, "results/benchmarks", f"{name}.json")
        self.env.note_dependency(str(path))
        self.env.note_reread()  # results come and go
        if not path.is_file():
            return [nodes.paragraph(text="Not measured yet.")]
        found = json.loads(path.read_text(encoding="utf-8"))
        if not section:
            return [nodes.paragraph(text=where(found["provenance"]))]
        if section == ["confusion"]:
            return [nodes.raw("", confusion_table(found), format="html")]
        if section == ["faster"]:
            items = "".join(f"<li>{html.escape(text)}</li>" for text in faster(found["tables"]))
            return [nodes.raw("", f"<ul>{items or '<li>Nowhere in this run.</li>'}</ul>", format="html")]
        tables = [table for table in found["tables"] if table["section"] == section[0]]
        return [nodes.raw("", "".join(map(as_html, tables)), format="html")]


def confusion_table(found):
    """What was planted against the first answer, and the counts of `planted.score` with their criteria."""
    answers = sorted({story for row in found["confusion"].values() for story in row})
    head = "".join(f'<th scope="col">{html.escape(story)}</th>' for story in answers)
    rows = "".join(
        f'<tr><th scope="row">{html.escape(kind)}</th>'
        + "".join(f"<td>{row.get(s, '')}</td>" for s in answers)
        + "</tr>"
        for kind, row in found["confusion"].items()
    )
    named = {
        "named": "the first answer names the planted one of five causes",
        "healthy": "a healthy run is not called spiky",
        "batch": "the bad batch is found",
        "samples": "and all of its bad samples",
    }
    counts = "".join(
        f"<li>{named[name]}: {right} of {of}; criterion {found['criteria'][name]:.0%}, "
        f"{'met' if right >= found['criteria'][name] * of else 'not met'}</li>"
        for name, (right, of) in found["score"].items()
    )
    return (
        f'<div class="spike-wide"><table class="spike-benchmark"><caption>The first answer (columns) for each planted '
        f'kind (rows)</caption><thead><tr><th scope="col">planted</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
        f"</div><ul>{counts}</ul>"
    )


def where(provenance):
    """One sentence on where and when."""
    versions = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    busy = f", load {provenance['load']} at the end" if provenance["load"] is not None else ""
    return (
        f"Measured on {provenance['date']}, {provenance['cpu']}, {provenance['cores']} cores{busy}; the least of up to "
        f"{provenance['repeats']} repeats. Python {provenance['python']}, {versions}."
    )


def faster(tables):
    """Every right answer that took less time than spikenb's, as sentences."""
    for table in tables:
        for row in table["rows"]:
            if row["status"] == "right" and (row.get("ratio") or 1) < 1 and "spikenb" not in row["contestant"]:
                yield f"{table['title']}: {row['contestant']} takes {row['ratio']:.2f} times spikenb's time."


def as_html(table):
    """One table, its title as caption, and what is to be said below it."""
    rows = [cells(row) for row in table["rows"]]
    columns = [name for name in COLUMNS if any(name in row for row in rows)]
    titles = {"time": f"time a {table['per']}", "ratio": "times spikenb", "products": "products a step"}
    titles |= {"memory": "memory beside the start"}
    head = "".join(f'<th scope="col">{titles.get(name, name)}</th>' for name in columns)
    body = []
    for row, given in zip(rows, table["rows"], strict=True):
        right = given["status"] == "right"
        mark = "" if right else f"<small>{html.escape(given['status'])}</small>"
        line = "".join(f'<td data-title="{titles.get(c, c)}">{html.escape(row.get(c, "–"))}</td>' for c in columns)
        kind = "" if right else ' class="spike-off"'
        body.append(f'<tr{kind}><th scope="row">{html.escape(given["contestant"])}{mark}</th>{line}</tr>')
    return (
        f'<table class="spike-benchmark" id="{table["id"]}"><caption>{html.escape(table["title"])}</caption>'
        f'<thead><tr><th scope="col">contestant</th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
        + "".join(f"<p>{html.escape(text)}</p>" for text in below(table))
    )


def cells(row):
    """A row's numbers as text, by column, where there are any."""
    found = {}
    if row.get("seconds") is not None:
        found["time"] = seconds(row["seconds"])
    if row.get("ratio") is not None:
        found["ratio"] = f"{row['ratio']:.2g}" if row["ratio"] < 9.95 else f"{row['ratio']:.0f}"
    if row.get("error") is not None:
        found["error"] = power(row["error"])
    if row.get("angle") is not None:
        found["angle"] = power(row["angle"])
    if row.get("products") is not None:
        found["products"] = f"{row['products']:.1f}"
        if row["products_warm"] is not None:
            found["products"] += f", {row['products_warm']:.1f} after the first"
    if row.get("extra_mb") is not None:
        found["memory"] = f"{row['extra_mb']:.0f} MB"
    return found


def power(value):
    """A small number in two digits, which a narrow column does not break."""
    return f"{value:.1e}".replace("-", "\N{NON-BREAKING HYPHEN}")


def seconds(value):
    """A time with its unit."""
    unit, name = next((u for u in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")) if value >= u[0]), (1e-6, "µs"))
    return f"{value / unit:.3g} {name}"


def below(table):
    """What a table says besides its columns, as sentences."""
    for row in table["rows"]:
        if row.get("wall") is not None:
            peak = f"; the whole process held at most {row['peak_mb'] / 1e3:.2f} GB" if row.get("peak_mb") else ""
            yield f"{row['contestant']} took {seconds(row['wall'])} of wall time{peak}."
    floor = table.get("floor")
    if floor and floor["ratio"]:
        yield (
            f"The arithmetic alone is {floor['flop'] / 1e9:.1f} GFLOP; at the {floor['flop_per_second'] / 1e9:.0f} "
            f"GFLOP/s of this core's matrix product that takes {seconds(floor['seconds'])}, and spikenb takes "
            f"{floor['ratio']:.2f} times as long."
        )


def setup(app):
    app.add_directive("benchmark", Benchmark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
