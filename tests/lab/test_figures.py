"""The picture vocabulary: colours that read on both backgrounds, and labels that tell the data."""

import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from lmloss.lab import VOCAB, figures

mpl.use("Agg")
ROLES = {name: getattr(figures, name) for name in ("TRUTH", "MODEL", "LOSS", "GRADIENT", "NEUTRAL")}
TRUTH = [0.10, 0.05, 0.05, 0.60, 0.10, 0.05, 0.05]
MODEL = [0.05, 0.02, 0.03, 0.70, 0.10, 0.05, 0.05]


@pytest.fixture(autouse=True)
def _book_style():
    with mpl.rc_context():
        figures.style()
        yield
    plt.close("all")


def luminance(color: str) -> float:
    """Return the relative luminance of WCAG 2."""
    channels = np.array(mpl.colors.to_rgb(color))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("background", ["white", "#121212"])
def test_every_role_stands_out_on_light_and_dark_by_three_to_one(role: str, background: str) -> None:
    light, dark = sorted([luminance(ROLES[role]), luminance(background)], reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3


def test_the_roles_have_the_colours_of_the_book() -> None:
    assert ROLES == {
        "TRUTH": "#0072B2",
        "MODEL": "#D55E00",
        "LOSS": "#B8578F",
        "GRADIENT": "#009E73",
        "NEUTRAL": "#7b7b7b",
    }


def test_a_figure_is_transparent_and_the_same_bytes_each_time() -> None:
    def draw() -> bytes:
        fig, ax = plt.subplots()
        figures.bars(ax, VOCAB, truth=TRUTH, model=MODEL)
        file = io.BytesIO()
        fig.savefig(file, format="png")
        return file.getvalue()

    picture = draw()
    assert picture == draw()
    assert plt.imread(io.BytesIO(picture))[0, 0, 3] == 0


def test_bars_show_the_data_given_in_the_order_given() -> None:
    _, ax = plt.subplots()
    figures.bars(ax, VOCAB, truth=TRUTH, model=MODEL)
    assert [bar.get_width() for bar in ax.patches] == [*TRUTH, *MODEL]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(VOCAB)
    labels = [text.get_text() for text in ax.texts]
    assert labels[3] == "0.60 truth"
    assert labels[10] == "0.70 model"
    assert sum("truth" in label or "model" in label for label in labels) == 2
    assert ax.yaxis_inverted(), "the first word is on top"
    truth, model = ax.patches[0], ax.patches[7]
    assert truth.get_y() + truth.get_height() <= model.get_y(), "side by side, the truth above"
    assert mpl.colors.to_hex(truth.get_facecolor()).upper() == figures.TRUTH


def test_labels_stay_inside_the_figure() -> None:
    fig, ax = plt.subplots()
    figures.bars(ax, VOCAB, truth=TRUTH, model=[0, 0, 0, 1, 0, 0, 0], digits=3)
    fig.canvas.draw()
    for text in ax.texts:
        box = text.get_window_extent()
        assert box.x1 <= fig.bbox.x1
        assert box.y0 >= 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "truth and model are both None"),
        ({"model": [0.5, 0.5]}, r"model has shape \(2,\); 7 words need shape \(7,\)"),
    ],
)
def test_bars_refuses_what_does_not_fit_the_words(given: dict, message: str) -> None:
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=message):
        figures.bars(ax, VOCAB, **given)


def test_a_curve_is_named_at_its_last_finite_point_in_its_colour() -> None:
    _, ax = plt.subplots()
    line = figures.curve(ax, [0, 1, 2], [3.0, 1.0, np.inf], "loss", figures.LOSS, shift=5)
    assert line.get_ydata().tolist() == [3.0, 1.0, np.inf]
    (label,) = ax.texts
    assert label.get_text() == "loss"
    assert label.xy == (1, 1)
    assert label.get_color() == line.get_color() == figures.LOSS


def test_a_level_runs_across_the_whole_axes() -> None:
    _, ax = plt.subplots()
    line = figures.level(ax, np.log(7), "ln 7")
    assert line.get_ydata() == [np.log(7)] * 2
    assert line.get_xdata() == [0, 1]
    assert ax.texts[0].get_text() == "ln 7"
