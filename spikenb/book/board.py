"""The Sphinx extension behind the board and the errata page: both are read from the executed notebooks."""

import html
from collections import Counter
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from . import campaign, claims


class _FromNotebooks(SphinxDirective):
    def notebooks(self):
        """Every chapter's executed notebook, a pair of docname and path; the page follows their changes."""
        folder = Path(self.env.srcdir)
        for path in sorted(folder.glob("book/[0-9]*.ipynb")):
            self.env.note_dependency(str(path))
            yield path.relative_to(folder).with_suffix("").as_posix(), path

    def link(self, docname, anchor, text):
        uri = self.env.app.builder.get_relative_uri(self.env.docname, docname)
        return f'<a href="{uri}#{anchor}">{html.escape(text)}</a>'

    def raw(self, page):
        return [nodes.raw("", page, format="html")]


class Board(_FromNotebooks):
    """Every claim with its verdict; `{board}` takes no argument."""

    def run(self):
        self.env.note_dependency(str(Path(claims.__file__).with_name("claims.toml")))
        found = {row["id"]: (doc, row) for doc, path in self.notebooks() for row in claims.stored(path)}
        store = Path(self.env.srcdir, "results")
        self.env.note_reread()  # results come and go
        counted, failed = campaign.summary(store, [path for _, path in self.notebooks()])
        counts = Counter(verdict_of(row, counted.get(id, {})) for id, (_, row) in found.items())
        counts["not settled here"] += sum("needs" in row for id, row in claims.table().items() if id not in found)
        summary = [f"{v}: {counts[v]}" for v in claims.VERDICTS if counts[v]]
        total = len(claims.table())
        page = [f"<p><strong>{len(found)} of {total} claims settled</strong>; {', '.join(summary)}.</p>"]
        for letter, source in claims.SOURCES.items():
            rows = [
                self.row(id, row, found.get(id), counted.get(id, {}))
                for id, row in claims.table().items()
                if id[0] == letter
            ]
            head = "".join(f'<th scope="col">{t}</th>' for t in ("id", "claim", "source", "ours", "verdict"))
            page.append(
                f'<h2 id="{letter}">{html.escape(source)}</h2><table class="spike-claims">'
                f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
            )
        if failed:
            lines = "".join(
                f"<li>{html.escape(name)}: <code>{html.escape(error)}</code>{'' if current else ' (stale)'}</li>"
                for name, error, current in failed
            )
            page.append(f'<h2 id="failed">Jobs that failed</h2><ul class="spike-failed">{lines}</ul>')
        return self.raw("".join(page))

    def row(self, id, row, settled, counted):
        claim = html.escape(f"{row['claim']} ({row['where']})")
        source = html.escape(row["source"] or "–")
        if settled:
            doc, data = settled
            name = self.link(doc, f"claim-{id}", id)
            mark = verdict_of(data, counted)
            notes = [data["note"] if mark == data["verdict"] else f"on the page: {data['verdict']}"]
            if mark == "holds in part" != data["verdict"]:
                notes.insert(0, f"{row['part']['statement']}; {row['part']['left_out']}")
            note = "".join(f"<small>{html.escape(text)}</small>" for text in notes if text)
            judged = {test["metric"] for test in row["tests"]}
            for counts in counted.values():  # the criterion's own metrics are enough here
                counts["spread"] = {m: v for m, v in counts["spread"].items() if m in judged}
            ours = html.escape(data["ours"]) + "".join(
                f"<small>{html.escape(over_seeds(scale, counts))}</small>" for scale, counts in counted.items()
            )
            verdict, mark = f"{mark}{note}", mark.replace(" ", "-")
        elif "needs" in row:
            name, ours, mark = id, "–", "not-settled-here"
            ready = f"needs {row['needs']}; the cells of chapter {row['chapter']} are ready"
            verdict = f"not settled here<small>{html.escape(ready)}</small>"
        else:
            name, ours, mark = id, "–", "open"
            planned = f"planned for chapter {row['chapter']}"
            verdict = f"not done yet<small>{planned}</small>"
        return (
            f'<tr><th scope="row" id="claim-{id}">{name}</th><td data-title="claim">{claim}</td>'
            f'<td data-title="source">{source}</td><td data-title="ours">{ours}</td>'
            f'<td data-title="verdict" class="verdict-{mark}">{verdict}</td></tr>'
        )


def verdict_of(stored, counted):
    """The verdict on a claim: over the seeds of the laptop campaign where there is one, else the page's own.

    It holds where it does in nine of ten seeds, and in part where in nine of ten at least the narrower statement does.
    """
    verdicts = counted.get("laptop", {}).get("verdicts")
    if not verdicts:
        return stored["verdict"]
    needed = 0.9 * sum(verdicts.values())
    holds, part, unsettled = (verdicts.get(v, 0) for v in ("holds", "holds in part", "not settled here"))
    if holds >= needed:
        return "holds"
    if holds + part >= needed:
        return "holds in part"
    return "not settled here" if 2 * unsettled > sum(verdicts.values()) else "does not hold"


def over_seeds(scale, counts):
    """One line on what a campaign found for a claim: the verdicts over seeds and the spread of the numbers."""
    total = sum(counts["verdicts"].values())
    parts = [f"{verdict} in {n} of {total} seeds" for verdict, n in counts["verdicts"].items()]
    parts += [
        f"{metric.replace('_', ' ')} {low:.3g}"
        if low == high
        else f"{metric.replace('_', ' ')} {low:.3g} to {high:.3g}"
        for metric, (low, _, high) in counts["spread"].items()
    ]
    if counts["stale"]:
        parts.append(f"{counts['stale']} stale results left out")
    return f"campaign, {scale}: {'; '.join(parts)}"


class Errata(_FromNotebooks):
    """What the chapters found wrong or unstated in the sources; `{errata}` takes no argument."""

    def run(self):
        page = []
        for doc, path in self.notebooks():
            for data in claims.stored(path, claims.ERRATA_MIME):
                where = self.link(doc, "errata", "computed in the chapter")
                page.append(claims.erratum_html(data).replace("</dl>", f"</dl><p>{where}</p>"))
        return self.raw("".join(page))


def _drop_thebe(app, pagename, templatename, context, doctree):
    """sphinx-thebe, which Jupyter Book always loads, asks an outside address for its script on every page."""
    context["script_files"] = [s for s in context.get("script_files", ()) if "thebe" not in str(s)]


def setup(app):
    app.add_directive("board", Board)
    app.add_directive("errata", Errata)
    app.connect("html-page-context", _drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
