from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import soundfile
from matplotlib.text import Text

from lab.errors import InputError
from lab.evaluation import plots
from lab.evaluation.boundaries import Profile
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


def draw(models, reference=REFERENCE, **options):
    return plots.posteriors(models, reference, CLASSES, frame_seconds=0.064, **options)


def titles(figure):
    return [panel.get_title(loc="left") for panel in figure.axes]


def test_shows_classes_of_the_reference_and_those_predicted():
    figure = draw({"coherence": bumps() ** 1.1, "baseline": bumps()})
    assert titles(figure) == ["Dog", "Frying", "Speech"]  # Cat stays below 0.3
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(labels) == ["baseline", "coherence", "reference event", "threshold"]
    assert figure.axes[-1].get_xlim() == pytest.approx((0, 156 * 0.064))
    colours = {line.get_label(): line.get_color() for line in figure.axes[0].lines}
    assert (colours["baseline"], colours["coherence"]) == ("#0072B2", "#D55E00")
    assert titles(draw({"a": bumps()}, show=["Cat"], title="a clip")) == ["Cat"]


@pytest.mark.parametrize(
    "reference", [pd.DataFrame(), REFERENCE[:1].assign(onset=None, offset=None, event_label=None)]
)
def test_a_silent_clip_shows_the_likeliest_class(reference):
    assert titles(draw({"baseline": bumps() * 0.2}, reference)) == ["Speech"]


def test_posteriors_stand_under_the_spectrogram_of_the_clip(tmp_path):
    time = np.arange(16000 * 10) / 16000
    soundfile.write(tmp_path / "a.wav", 0.1 * np.sin(2 * np.pi * 3000 * time), 16000)
    figure = draw({"baseline": bumps()}, audio=tmp_path / "a.wav")
    assert titles(figure) == ["", "Dog", "Frying", "Speech"]
    (image,) = figure.axes[0].get_images()
    left, right, low, high = image.get_extent()
    assert (left, right, low, high) == pytest.approx((0, 10, 0, 8), abs=0.05)
    loudest = image.get_array().max(axis=1).argmax() / 128 * 8
    assert loudest == pytest.approx(3, abs=0.07)
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    # Without a file, or with one that is none, there are the posteriors.
    (tmp_path / "b.wav").touch()
    for name in ("b.wav", "nowhere.wav"):
        assert titles(draw({"baseline": bumps()}, audio=tmp_path / name))[0] == "Dog"


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
        "change_histogram": plots.change_histogram({ODD: np.ones(3)}, xlabel=ODD),
        "edge_profiles": plots.edge_profiles(profile, profile),
        "error_profiles": plots.error_profiles({ODD: counts}, errors),
        "curves": plots.curves({ODD: pd.DataFrame({ODD: [1000.0, 1.0, 0.01]})}, panels=[ODD]),
    }


def test_names_are_text_in_every_figure_and_files_are_the_same_each_time(tmp_path, recwarn):
    figures, again = odd_figures(), odd_figures()
    public = {n for n, f in vars(plots).items() if getattr(f, "__module__", "") == plots.__name__}
    assert set(figures) == {n for n in public if n[0] != "_"} - {"save", "styles"}
    for name, figure in figures.items():
        png, svg = plots.save(figure, tmp_path / f"{name}.png")
        assert (png.name, svg.name) == (f"{name}.png", f"{name}.svg")
        assert png.read_bytes().startswith(b"\x89PNG")
        _, other = plots.save(again[name], tmp_path / "new" / "v1.2")
        assert other.name == "v1.2.svg"
        assert other.read_bytes() == svg.read_bytes()
        shown = [text for text in figure.findobj(Text) if text.get_text()]
        assert not any(text.get_parse_math() for text in shown)
        # Some show a class, and these have blanks for underscores.
        words = [text.get_text().replace("_", " ") for text in shown]
        assert any(ODD.replace("_", " ") in text for text in words)
    assert [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)] == []


def f1_table(base, trials=3):
    spread = np.linspace(-0.01, 0.01, trials)
    return pd.DataFrame(base + spread * np.ones((4, 1)), index=CLASSES)


def test_classwise_bars_are_means_over_trials_and_the_line_is_the_macro():
    sets = {
        "validation": {"baseline": f1_table(0.4), "coherence": f1_table(0.5)},
        "public": {"baseline": f1_table(0.3), "coherence": f1_table(0.35)},
    }
    figure = plots.classwise_f1(sets)
    assert titles(figure) == ["validation", "public"]
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


@pytest.mark.parametrize("value", [0.0, float("nan")])
@pytest.mark.filterwarnings("error")
def test_a_model_without_a_hit_has_a_figure_and_no_warning(value):
    table = pd.DataFrame({"trial": value}, index=CLASSES)
    figure = plots.classwise_f1({"validation": {"baseline": table}})
    assert figure.axes[0].get_ylim() == (0, 1)


def test_histograms_are_shares_and_name_mean_and_variance():
    changes = {"baseline": np.arange(1000.0), "coherence": np.arange(1000.0) / 2}
    panel = plots.change_histogram(changes, xlabel="change").axes[0]
    shares = [patch.get_data().values.sum() for patch in panel.patches[::2]]
    assert shares == pytest.approx([99, 100], abs=0.5)
    label = panel.get_legend().get_texts()[0].get_text()
    assert label == f"baseline: mean 500, variance {np.var(changes['baseline']):.3g}"


def test_profiles_show_mean_and_standard_error():
    seconds = np.linspace(-1, 1, 21)
    mean = {"baseline": np.linspace(0, 1, 21)}
    result = Profile(seconds, mean, {"baseline": np.full(21, 0.1)}, 7)
    figure = plots.edge_profiles(result, result)
    assert titles(figure) == ["onset, 7 events", "offset, 7 events"]
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(-0.1)


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


def test_signed_errors_stand_below_the_profiles():
    systems = {"baseline": profile(events=4, missed=4), "coherence": profile(events=4, hit=4)}
    errors = pd.DataFrame({"onset_error": np.arange(101.0), "offset_error": -np.arange(101.0)})
    figure = plots.error_profiles(systems, {"baseline": errors[:0], "coherence": errors})
    _, onset, offset = figure.axes
    box = onset.patches[-1].get_path().get_extents()
    assert (box.x0, box.x1) == (25, 75)
    ends = {x for line in onset.lines for x in line.get_xdata()}
    assert {5, 95} <= ends
    names = [text.get_text() for text in onset.get_yticklabels()]
    assert names == ["baseline\n0 found", "coherence\n101 found"]
    assert onset.get_ylim() == offset.get_ylim()
    assert onset.yaxis_inverted()


def test_curves_have_whole_epochs_and_scores_in_percent():
    table = pd.DataFrame(
        {"|z|": [1.0, 101.0], "loss": [1.0, np.nan], "event F1 (%)": [0.0, 0.425]}, index=[1, 2]
    )
    models = {"baseline": table[["loss"]], "coherence": table}
    figure = plots.curves(models, panels=list(table))
    assert [len(panel.lines) for panel in figure.axes] == [1, 2, 1]
    assert [panel.get_yscale() for panel in figure.axes] == ["log", "linear", "linear"]
    assert figure.axes[2].lines[0].get_ydata().max() == 42.5
    for panel in figure.axes:
        assert all(float(tick).is_integer() for tick in panel.get_xticks())


def test_many_models_are_told_apart():
    looks = plots.styles([f"setting {n}" for n in range(9)]).values()
    assert len({str(look) for look in looks}) == 9
