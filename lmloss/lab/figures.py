"""One picture vocabulary for the whole book: what a colour means, how a distribution and a curve are drawn.

The truth, the model, the loss and the gradient keep their colours in every figure. They are from the palette of Okabe
and Ito, which people with any kind of colour vision tell apart, and they read on white and on black. Labels stand
beside what they name and carry its colour, so that no figure needs a legend.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

__all__ = ["GRADIENT", "LOSS", "MODEL", "NEUTRAL", "TRUTH", "bars", "curve", "level", "style"]

TRUTH = "#0072B2"
"""The truth's colour, that of data, targets and the distribution p."""

MODEL = "#D55E00"
"""The model's colour, that of predictions and the distribution q."""

LOSS = "#B8578F"
"""The colour of the loss."""

GRADIENT = "#009E73"
"""The colour of the gradient."""

NEUTRAL = "#7b7b7b"
"""The colour of axes, words and whatever plays no role; it reads on white and on black."""


def style() -> None:
    """Set Matplotlib up for the book: transparent, few lines, letters that a phone shows, messages as titles.

    Call it once in a notebook's first cell. It changes Matplotlib's settings for the session and nothing else.
    """
    mpl.rcParams.update(
        {
            "figure.figsize": (5.6, 3.3),
            "figure.dpi": 160,
            "figure.facecolor": "none",
            "figure.edgecolor": "none",
            "figure.constrained_layout.use": True,
            "savefig.facecolor": "none",
            "savefig.edgecolor": "none",
            "axes.facecolor": "none",
            "axes.edgecolor": NEUTRAL,
            "axes.labelcolor": NEUTRAL,
            "axes.titlecolor": NEUTRAL,
            "axes.titlelocation": "left",
            "axes.titlesize": 13,
            "axes.titleweight": "bold",
            "axes.titlepad": 10,
            "axes.labelsize": 12,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": cycler(color=[MODEL, TRUTH, LOSS, GRADIENT, NEUTRAL]),
            "font.family": "DejaVu Sans",
            "font.size": 12,
            "text.color": NEUTRAL,
            "xtick.color": NEUTRAL,
            "ytick.color": NEUTRAL,
            "xtick.labelsize": 11,
            "ytick.labelsize": 11,
            "lines.linewidth": 2.2,
            "lines.solid_capstyle": "round",
            "grid.color": NEUTRAL,
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "svg.hashsalt": "lmloss",
        }
    )


def bars(
    ax: Axes,
    words: Sequence[str],
    truth: npt.ArrayLike | None = None,
    model: npt.ArrayLike | None = None,
    *,
    digits: int = 2,
) -> None:
    """Draw a distribution over words as horizontal bars with their values; with two, the truth above the model.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where to draw.
    words : sequence of str
        The words, from top to bottom; V of them.
    truth, model : array_like, optional
        Probabilities, shape (V,). The longest bar of each role names the role.
    digits : int
        Decimals of the values.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> fig, ax = plt.subplots()
    >>> bars(ax, ["you", "zoo"], truth=[1, 0], model=[0.9, 0.1])
    >>> [text.get_text() for text in ax.texts]
    ['1.00 truth', '0.00', '0.90 model', '0.10']
    >>> plt.close(fig)
    """
    given = [
        (role, color, np.asarray(probs, dtype=float))
        for role, color, probs in (("truth", TRUTH, truth), ("model", MODEL, model))
        if probs is not None
    ]
    if not given:
        raise ValueError("truth and model are both None; give at least one distribution")
    height = 0.8 / len(given)
    for row, (role, color, probs) in enumerate(given):
        if probs.shape != (len(words),):
            raise ValueError(f"{role} has shape {probs.shape}; {len(words)} words need shape ({len(words)},)")
        places = np.arange(len(words)) + (row - (len(given) - 1) / 2) * height
        ax.barh(places, probs, height=0.9 * height, color=color)
        for place, prob in zip(places, probs, strict=True):
            label = f"{prob:.{digits}f}" + (f" {role}" if place == places[np.argmax(probs)] else "")
            ax.annotate(label, (prob, place), (4, 0), textcoords="offset points", va="center", color=color, size=11)
    ax.set_yticks(range(len(words)), labels=list(words))
    ax.tick_params(left=False)
    ax.set_ylim(len(words) - 0.5, -0.5)
    ax.set_xlim(0, 1.3 * max(float(np.max(probs)) for _, _, probs in given))
    ax.set_xticks([])
    ax.spines[["bottom"]].set_visible(False)


def curve(
    ax: Axes, x: npt.ArrayLike, y: npt.ArrayLike, label: str, color: str, *, shift: float = 0.0, dashed: bool = False
) -> Line2D:
    """Draw a curve and write its label beside its right end, in its colour.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where to draw.
    x, y : array_like
        The points, shape (N,); the label stands at the last finite one.
    label : str
        What the curve is.
    color : str
        One of the roles' colours.
    shift : float
        Moves the label up by this many points where two labels would touch.
    dashed : bool
        Dashes the line, for the lesser of two curves of one role.

    Returns
    -------
    matplotlib.lines.Line2D
        The line.
    """
    across, up = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    (line,) = ax.plot(across, up, color=color, linestyle="--" if dashed else "-")
    last = np.flatnonzero(np.isfinite(across) & np.isfinite(up))[-1]
    ax.annotate(
        label, (across[last], up[last]), (6, shift), textcoords="offset points", va="center", color=color, size=11
    )
    return line


def level(ax: Axes, value: float, label: str, color: str = NEUTRAL) -> Line2D:
    """Draw a dotted horizontal line at a value that others are held against, and name it above its left end."""
    line = ax.axhline(value, color=color, linestyle=":", linewidth=1.6)
    ax.annotate(
        label,
        (0, value),
        (4, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="bottom",
        color=color,
        size=11,
    )
    return line
