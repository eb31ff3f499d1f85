from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from lab.errors import InputError
from lab.evaluation import plots
from lab.evaluation.boundaries import Profile, histogram
from lab.evaluation.profile import ALL, COLUMNS, OFFICIAL

CLASSES = ["Cat", "Dog", "Frying", "Speech"]
REFERENCE = pd.DataFrame(
    {
        "filename": "a.wav",
        "onset": [1.0, 6.0, 2.0],
        "offset": [3.0, 7.5, 9.0],
        "event_label": ["Dog", "Dog", "Speech"],
    }
)


def bumps(frames=156):
    time = np.arange(frames)[:, None] * 0.064
    centre, width = np.array([5, 2, 5, 5.5]), np.array([1, 1, 2, 3.5])
    height = np.array([0.2, 0.9, 0.4, 0.95])
    return height / (1 + np.exp((np.abs(time - centre) - width) * 6))


def texts(figure):
    return [panel.get_title(loc="left") for panel in figure.axes]


def test_shows_classes_of_the_reference_and_those_predicted():
    figure = plots.posteriors(
        {"baseline": bumps(), "coherence": bumps() ** 1.1},
        REFERENCE,
        CLASSES,
        frame_seconds=0.064,
    )
    assert texts(figure) == ["Dog", "Frying", "Speech"]  # Cat stays below 0.3
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(labels) == ["baseline", "coherence", "reference event", "threshold"]
    assert figure.axes[-1].get_xlim() == pytest.approx((0, 156 * 0.064))


def test_the_two_models_keep_their_colours():
    figure = plots.posteriors(
        {"coherence": bumps(), "baseline": bumps()}, REFERENCE, CLASSES, frame_seconds=0.064
    )
    colours = {
        line.get_label(): line.get_color()
        for line in figure.axes[0].lines
        if line.get_label() in ("baseline", "coherence")
    }
    assert colours == {"baseline": "#0072B2", "coherence": "#D55E00"}


def test_a_silent_clip_shows_the_likeliest_class():
    silent = pd.DataFrame(
        {"filename": ["a.wav"], "onset": [None], "offset": [None], "event_label": [None]}
    )
    low = bumps() * 0.2
    figure = plots.posteriors({"baseline": low}, silent, CLASSES, frame_seconds=0.064)
    assert texts(figure) == ["Speech"]


ODD = "a$x_{$b 字"


def odd_figures():
    """Every figure with a name that is no mathematics and that fonts lack."""
    table = pd.DataFrame({"f1": [0.5]}, index=[ODD])
    profile = Profile(
        np.linspace(-1, 1, 5), {ODD: np.full(5, 0.5)}, {ODD: np.full(5, 0.1)}, events=1
    )
    counts = pd.DataFrame(1, index=[ODD, ALL], columns=COLUMNS)
    errors = {ODD: pd.DataFrame({"onset_error": [0.1], "offset_error": [0.2]})}
    return {
        "posteriors": plots.posteriors(
            {ODD: bumps()[:, :1]}, pd.DataFrame(), [ODD], frame_seconds=0.064, title=ODD
        ),
        "classwise_f1": plots.classwise_f1({ODD: {ODD: table}}, ylabel=ODD),
        "change_histogram": plots.change_histogram(histogram({ODD: np.ones(3)}), xlabel=ODD),
        "edge_profiles": plots.edge_profiles(profile, profile, title=ODD),
        "edge_error_boxes": plots.edge_error_boxes(errors),
        "error_profiles": plots.error_profiles({ODD: counts}, errors),
        "curves": plots.curves(
            {ODD: pd.DataFrame({ODD: [1000.0, 1.0, 0.01]})}, panels=[ODD], xlabel=ODD
        ),
    }


def test_names_are_text_in_every_figure(tmp_path, recwarn):
    figures = odd_figures()
    public = {
        n
        for n, f in vars(plots).items()
        if getattr(f, "__annotations__", {}).get("return") == "Figure"
    }
    assert set(figures) == {name for name in public if not name.startswith("_")}
    for name, figure in figures.items():
        paths = plots.save(figure, tmp_path / name)
        assert all(path.stat().st_size for path in paths)
        shown = [text for text in figure.findobj(Text) if text.get_text()]
        assert not any(text.get_parse_math() for text in shown)
        # Some show a class, and these have blanks for underscores.
        words = [text.get_text().replace("_", " ") for text in shown]
        assert any(ODD.replace("_", " ") in text for text in words)
    assert [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)] == []


def test_png_and_svg_are_written_the_same_each_time(tmp_path):
    def write(name):
        figure = plots.posteriors({"a": bumps()}, REFERENCE, CLASSES, frame_seconds=0.064)
        return plots.save(figure, tmp_path / name)

    png, svg = write("new/figure.png")
    assert (png.name, svg.name) == ("figure.png", "figure.svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in png.parent.iterdir()) == ["figure.png", "figure.svg"]
    again = write("new/v1.2")
    assert [path.name for path in again] == ["v1.2.png", "v1.2.svg"]
    assert again[1].read_bytes() == svg.read_bytes()


@pytest.mark.parametrize(
    ("models", "reference", "words"),
    [
        ({}, REFERENCE, "models is empty"),
        ({"baseline": bumps()[:, :2]}, REFERENCE, r"baseline have the shape \(156, 2\)"),
        ({"baseline": bumps()}, REFERENCE.assign(event_label="Bell"), "'Bell'"),
        ({"baseline": bumps()}, REFERENCE.assign(filename=["a", "b", "c"]), "3 clips"),
    ],
)
def test_bad_input_is_named(models, reference, words):
    with pytest.raises(InputError, match=words):
        plots.posteriors(models, reference, CLASSES, frame_seconds=0.064)


def test_only_the_classes_asked_for():
    figure = plots.posteriors(
        {"a": bumps()}, REFERENCE, CLASSES, frame_seconds=0.064, show=["Cat"], title="a clip"
    )
    assert texts(figure) == ["Cat"]
    with pytest.raises(InputError, match="'Bell'"):
        plots.posteriors({"a": bumps()}, REFERENCE, CLASSES, frame_seconds=0.064, show=["Bell"])


def f1_table(base, trials=3):
    spread = np.linspace(-0.01, 0.01, trials)
    return pd.DataFrame(base + spread * np.ones((4, 1)), index=CLASSES)


def test_classwise_bars_are_means_over_trials_and_the_line_is_the_macro():
    sets = {
        "validation": {"baseline": f1_table(0.4), "coherence": f1_table(0.5)},
        "public": {"baseline": f1_table(0.3), "coherence": f1_table(0.35)},
    }
    figure = plots.classwise_f1(sets)
    assert texts(figure) == ["validation", "public"]
    heights = [bar.get_height() for bar in figure.axes[0].containers[1]]
    assert heights == pytest.approx([40] * 4)
    macros = [
        line.get_ydata()[0] for line in figure.axes[1].lines if line.get_label().endswith("macro")
    ]
    assert macros == pytest.approx([30, 35])
    part = {"validation": {"baseline": f1_table(0.4, trials=1)}}
    figure = plots.classwise_f1(part, show=["Dog"])
    assert [len(bars) for bars in figure.axes[0].containers] == [1]
    with pytest.raises(InputError, match="lacks the class 'Bell'"):
        plots.classwise_f1(part, show=["Bell"])
    with pytest.raises(InputError, match="sets is empty"):
        plots.classwise_f1({})


@pytest.mark.parametrize("value", [0.0, float("nan")])
@pytest.mark.filterwarnings("error")
def test_a_model_without_a_hit_has_a_figure_and_no_warning(value):
    table = pd.DataFrame({"trial": value}, index=CLASSES)
    figure = plots.classwise_f1({"validation": {"baseline": table}})
    assert figure.axes[0].get_ylim() == (0, 1)


def test_histogram_names_mean_and_variance():
    random = np.random.default_rng(0)
    figure = plots.change_histogram(histogram({"baseline": random.gamma(2, 1, 500)}))
    label = figure.axes[0].get_legend().get_texts()[0].get_text()
    assert label.startswith("baseline: mean ")
    assert "variance" in label


def test_profiles_show_mean_and_standard_error():
    seconds = np.linspace(-1, 1, 21)
    mean = {"baseline": np.linspace(0, 1, 21)}
    found = Profile(seconds, mean, {"baseline": np.full(21, 0.1)}, 7)
    figure = plots.edge_profiles(found, found, tolerance=0.25, title="Dog")
    assert texts(figure) == ["onset, 7 events", "offset, 7 events"]
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(-0.1)
    assert figure.axes[0].patches[0].get_x() == pytest.approx(-0.25)


def test_error_boxes_show_the_percentiles():
    errors = pd.DataFrame({"onset_error": np.arange(101.0), "offset_error": -np.arange(101.0)})
    figure = plots.edge_error_boxes({"baseline": errors, "coherence": errors})
    box = figure.axes[0].containers[0][0]
    assert (box.get_x(), box.get_x() + box.get_width()) == (25, 75)
    with pytest.raises(InputError, match="coherence has detected no event"):
        plots.edge_error_boxes({"baseline": errors, "coherence": errors[:0]})


def profile(**counts):
    table = pd.DataFrame([[0] * len(COLUMNS)], columns=COLUMNS, index=[ALL])
    return table.assign(**counts)


def test_error_profiles_are_shares_that_fill_the_bar():
    systems = {
        "baseline": profile(events=4, hit=1, onset_wrong=2, missed=1),
        "coherence": profile(events=10, hit=10),
        "of nothing": profile(),
    }
    panel = plots.error_profiles(systems).axes[0]
    hits, *_, missed = panel.containers
    assert [bar.get_width() for bar in hits][:3] == [25, 100, 0]
    ends = [bar.get_x() + bar.get_width() for bar in missed]
    assert ends == pytest.approx([100, 100, 0, 100])
    names = [text.get_text().split("\n")[0] for text in panel.get_yticklabels()]
    assert names == [*systems, OFFICIAL]
    assert {text.get_text() for text in panel.texts} >= {"25", "50", "100", "38"}
    assert len({bars[0].get_facecolor() for bars in panel.containers}) == 6
    assert len(plots.error_profiles(systems, official=False).axes[0].containers[0]) == 3
    with pytest.raises(InputError, match="profiles is empty"):
        plots.error_profiles({})


def test_signed_errors_stand_beside_the_profiles(tmp_path):
    systems = {"baseline": profile(events=4, missed=4), "coherence": profile(events=4, hit=4)}
    errors = pd.DataFrame({"onset_error": [-0.1, 0.1, 0.3], "offset_error": [0.0, 1.0, 2.0]})
    figure = plots.error_profiles(systems, {"baseline": errors[:0], "coherence": errors})
    _, onset, offset = figure.axes
    box = onset.containers[0][0]
    assert (box.get_x(), box.get_x() + box.get_width()) == pytest.approx((0, 0.2))
    assert [text.get_text() for text in onset.get_yticklabels()] == [
        "baseline\n0 found",
        "coherence\n3 found",
    ]
    assert "offset error" in offset.get_xlabel()
    plots.save(figure, tmp_path / "profile")


def test_curves_of_models_that_lack_some():
    table = pd.DataFrame({"|z|": [1.0, 2.0], "loss": [3.0, np.nan]})
    figure = plots.curves({"baseline": table[["loss"]], "coherence": table}, panels=["|z|", "loss"])
    assert [len(panel.lines) for panel in figure.axes] == [1, 2]
    with pytest.raises(InputError, match="'d_inside'"):
        plots.curves({"baseline": table}, panels=["d_inside"])


def test_curves_over_decades_are_logarithmic():
    table = pd.DataFrame({"|z|": [1.0, 101.0], "loss": [1.0, 99.0], "score": [0.0, 200.0]})
    figure = plots.curves({"exact": table}, panels=list(table))
    assert [panel.get_yscale() for panel in figure.axes] == ["log", "linear", "linear"]


def test_many_models_are_told_apart():
    looks = plots.styles([f"setting {n}" for n in range(9)]).values()
    assert len({str(look) for look in looks}) == 9
