"""The numbers behind each figure, as CSV: taken when a notebook is executed, one click from the figure on its page.

`make.py notebooks` loads this module into the kernel (`load_ipython_extension`), and every figure that is shown then
carries its numbers beside its picture, as an output of the type `MIME`. The pages' build (`setup`, a Sphinx extension)
writes them as files and links each from its figure's caption.
"""

import base64
import csv
import gzip
import hashlib
import html
import io
import json
from pathlib import Path

import numpy as np
from IPython.core.formatters import BaseFormatter
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from traitlets import Unicode

MIME = "application/vnd.spikenb.csv+gzip"
"""The type of a figure's numbers among the outputs of a notebook: its CSV, compressed, in base64."""

COLUMNS = ("panel", "series", "piece", "x", "y", "value")
"""`piece` numbers the parts of a series that is drawn in several; `value` is what a colour or a contour stands for."""

FOLDER = "numbers"


# ---- from a figure ----


def table(figure):
    """The numbers that a figure shows, as CSV text with a header of `COLUMNS`, to six significant digits.

    Lines, points, bars, images, contours and bands are in it, in the data's own coordinates; a line or band over the
    whole width or height has no x or no y. Texts, arrows and colour bars are not. Empty for a figure that shows none.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    """
    if not isinstance(figure, Figure):
        raise TypeError(f"figure must be a matplotlib Figure, not {type(figure).__name__}")
    rows, number = [], 0
    for ax in figure.axes:
        if hasattr(ax, "_colorbar"):
            continue
        number += 1
        for series, pieces in _series(ax):
            for k, piece in enumerate(pieces, 1):
                part = k if len(pieces) > 1 else ""
                rows += [(_panel(ax, number), series, part, *map(_short, row)) for row in piece]
    if not rows:
        return ""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    return text.getvalue()


def _short(number):
    return f"{number:.6g}" if np.isfinite(number) else ""


def _panel(ax, number):
    """1: title; what is drawn against what. Of panels that share an axis only the lowest may name it."""
    shared = [ax, *ax.get_shared_x_axes().get_siblings(ax)]
    xlabel = next((a.get_xlabel() for a in shared if a.get_xlabel()), "")
    drawn = " against ".join(filter(None, (ax.get_ylabel(), xlabel)))
    return ": ".join(filter(None, (str(number), "; ".join(filter(None, (ax.get_title(), drawn))))))


def _series(ax):
    """Each series of a pair of axes: its name, and its pieces, lists of (x, y, value)."""
    bars = [c for c in ax.containers if isinstance(c, BarContainer)]
    in_bars = {id(patch) for c in bars for patch in c.patches}
    found = {"line": ax.lines, "bars": bars, "band": [p for p in ax.patches if id(p) not in in_bars]}
    found |= {"image": ax.images, "points": [], "contours": [], "segments": [], "area": []}
    for collection in ax.collections:
        found[_kind(collection)].append(collection)
    labels = {id(part): c.get_label() for c in ax.containers for part in c.get_children()}  # of points with error bars
    for kind, artists in found.items():
        for k, artist in enumerate(artists, 1):
            pieces = [piece for piece in _PIECES[kind](artist, ax.transData) if piece]
            label = str(labels.get(id(artist)) or artist.get_label())
            if pieces:
                yield _name(artist, kind, k) if label.startswith("_") or not label else label, pieces


def _kind(collection):
    if isinstance(collection, ContourSet):
        return "contours"
    if isinstance(collection, LineCollection):
        return "segments"
    return "points" if isinstance(collection, PathCollection) else "area"


def _name(artist, kind, number):
    """A series without a label: its kind, a number, and by what to find it in the figure."""
    marks = []
    if kind == "line":
        marks = [str(mark) for mark in (artist.get_linestyle(), artist.get_marker())]
        marks = [mark for mark in marks if mark.strip().lower() not in ("", "none")] + [to_hex(artist.get_color())]
    elif kind in ("bars", "band"):
        marks = [to_hex((artist.patches[0] if kind == "bars" else artist).get_facecolor())]
    return f"{kind} {number}" + (f" ({' '.join(marks)})" if marks else "")


def _rows(xy, transform, data, values=None):
    """Points as rows. Where one coordinate is not the data's, the ends of the other: a band or a line right across."""
    xy = np.ma.filled(np.ma.asarray(xy, dtype=float), np.nan).reshape(-1, 2)
    of_data = transform.contains_branch_seperately(data)
    if not any(of_data):
        return []
    if not all(of_data):
        here = xy[:, 0 if of_data[0] else 1]
        here = here[np.isfinite(here)]
        ends = sorted({here.min(), here.max()}) if len(here) else []
        return [(end, np.nan, np.nan) if of_data[0] else (np.nan, end, np.nan) for end in ends]
    values = np.full(len(xy), np.nan) if values is None else np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)
    return [(x, y, value) for (x, y), value in zip(xy.tolist(), values.tolist(), strict=True)]


def _line(line, data):
    return [_rows(line.get_xydata(), line.get_transform(), data)]


def _bars(bars, data):
    boxes = [p.get_bbox() for p in bars.patches]
    if bars.orientation == "horizontal":
        return [[(b.x1, (b.y0 + b.y1) / 2, np.nan) for b in boxes]]
    return [[((b.x0 + b.x1) / 2, b.y1, np.nan) for b in boxes]]


def _band(patch, data):
    path = patch.get_path().transformed(patch.get_patch_transform())
    return [_rows(piece, patch.get_data_transform(), data) for piece in _polygons(path)]


def _image(image, data):
    values = np.ma.filled(np.ma.asarray(image.get_array(), dtype=float), np.nan)
    if values.ndim != 2:  # a picture in colours
        return []
    left, right, bottom, top = image.get_extent()
    if image.origin == "upper":
        bottom, top = top, bottom
    height, width = ((np.arange(n) + 0.5) / n for n in values.shape)
    x, y = np.meshgrid(left + (right - left) * width, bottom + (top - bottom) * height)
    return [list(zip(x.ravel().tolist(), y.ravel().tolist(), values.ravel().tolist(), strict=True))]


def _points(points, data):
    places, colours = points.get_offsets(), points.get_array()
    values = colours if colours is not None and len(colours) == len(places) else None
    return [_rows(places, points.get_offset_transform(), data, values)]


def _contours(contours, data):
    return [
        _rows(piece, contours.get_transform(), data, np.full(len(piece), level))
        for level, path in zip(contours.levels, contours.get_paths(), strict=False)
        for piece in _polygons(path)
    ]


def _paths(collection, data):
    transform = collection.get_transform()
    return [_rows(piece, transform, data) for path in collection.get_paths() for piece in _polygons(path)]


def _polygons(path):
    return path.to_polygons(closed_only=False)


_PIECES = {"line": _line, "bars": _bars, "band": _band, "image": _image, "points": _points, "contours": _contours,
           "segments": _paths, "area": _paths}  # fmt: skip


# ---- at execution ----


class _Formatter(BaseFormatter):
    """What IPython asks for the numbers. Not registered for the type: Matplotlib's backend takes such away."""

    format_type = Unicode(MIME)

    def __call__(self, shown):
        return packed(shown) if isinstance(shown, Figure) else None


def load_ipython_extension(shell):
    """Let every figure that this kernel shows carry its numbers; `%load_ext spikenb.book.numbers` does it by hand."""
    shell.display_formatter.formatters[MIME] = _Formatter(parent=shell.display_formatter)


def packed(figure):
    """A figure's `table`, compressed and in base64; None for a figure without numbers."""
    text = table(figure).encode()
    return base64.b64encode(gzip.compress(text, mtime=0)).decode() if text else None


# ---- on the pages ----


def stored(notebook):
    """The numbers in an executed notebook: {sha256 of the picture: CSV as bytes}, in the order of its figures."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    found = {}
    for output in (o.get("data", {}) for cell in cells for o in cell.get("outputs", ())):
        if MIME in output and "image/png" in output:
            picture = hashlib.sha256(base64.b64decode(_joined(output["image/png"]))).hexdigest()
            found[picture] = gzip.decompress(base64.b64decode(_joined(output[MIME])))
    return found


def _joined(text):
    return text if isinstance(text, str) else "".join(text)


def _link(app, doctree, docname):
    """Write the numbers of a page's figures beside the pages, and link each at the end of its figure's caption."""
    from docutils import nodes  # a kernel need not have it

    source = Path(app.env.doc2path(docname))
    if app.builder.format != "html" or source.suffix != ".ipynb":
        return
    found = stored(source)
    folder = Path(app.outdir, FOLDER)
    for number, figure in enumerate(doctree.findall(nodes.figure), 1):
        image, caption = (next(figure.findall(kind), None) for kind in (nodes.image, nodes.caption))
        text = found.get(Path(image["uri"]).stem) if image else None  # myst-nb names a picture by its digest
        if text is None or caption is None:
            continue
        folder.mkdir(exist_ok=True)
        path = folder / f"{source.stem}-{number}.csv"
        path.write_bytes(text)
        href = f"{app.builder.get_relative_uri(docname, 'index').rpartition('/')[0] or '.'}/{FOLDER}/{path.name}"
        size = f"{len(text) / 1e6:.1f} MB" if len(text) > 1e6 else f"{max(1, round(len(text) / 1e3))} KB"
        caption += nodes.raw(
            "",
            f' <a class="spike-numbers" href="{html.escape(href)}" download>The numbers (CSV, {size})</a>',
            format="html",
        )


def setup(app):
    """The extension of the pages' build; `_config.yml` names it."""
    app.connect("doctree-resolved", _link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
