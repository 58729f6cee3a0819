"""The book's figures: one colour a quantity, in every chapter."""

import matplotlib.pyplot as plt

INK = "#1a1a1a"
COLORS = {
    "loss": INK,
    "sharpness": "#c8232c",
    "threshold": INK,
    "kernel norm": "#7b3fa0",
    "top space": "#b35a00",
    "complement": "#1f6fb5",
    "alignment": "#23783f",
    "spike": "#f2e2b8",
}
"""What a reader knows from the colour: use `color="…"` of this table, and a dash, a marker or a label with it."""

WIDTH = 6.4
"""The width of every figure in inches."""


def use_style():
    """Set Matplotlib's defaults for the book; call it once, in the set-up cell."""
    plt.rcParams.update(
        {
            "figure.figsize": (WIDTH, 3.4),
            "figure.dpi": 120,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": plt.cycler(color=[INK, COLORS["complement"], COLORS["top space"]]),
            "font.size": 11,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "savefig.dpi": 120,
        }
    )


def threshold(ax, value, text):
    """The dashed ink line of 2/η (or η_crit), with its label at the right end."""
    ax.axhline(value, color=COLORS["threshold"], linestyle="--", linewidth=1.2, zorder=1)
    ax.annotate(text, (1, value), (-2, 3), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right")


def label(ax, text, x, y, color=INK, **options):
    """A direct label beside a line, in its colour, at data coordinates (x, y)."""
    ax.annotate(text, (x, y), (5, 4), textcoords="offset points", color=color, **options)


def spike_bands(ax, spikes):
    """A pale band behind each `Spike`, from the last quiet step before the peak to the first one after."""
    for spike in spikes:
        ax.axvspan(spike.start, spike.end, color=COLORS["spike"], zorder=0, linewidth=0)
