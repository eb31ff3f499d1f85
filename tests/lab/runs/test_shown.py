import numpy as np
import pandas as pd
import pytest

from lab.baseline.config import load_config
from lab.data.desed import CLASSES
from lab.errors import InputError
from lab.evaluation.posteriors import Posteriors, write_detections
from lab.runs.shown import clip_to_show, draw_clip

FRAMES = 156


def table(*rows):
    return pd.DataFrame(rows, columns=["filename", "onset", "offset", "event_label"])


REFERENCE = table(
    ("a.wav", 1.0, 3.0, "Dog"), ("b.wav", 1.0, 3.0, "Cat"), ("not_tested.wav", 1.0, 3.0, "Dog")
)


def test_the_clip_that_is_shown_is_one_that_both_models_understand():
    many = [("many.wav", float(n), n + 0.5, "Dog") for n in range(6)]
    reference = table(
        *many,
        ("two.wav", 1.0, 2.0, "Cat"),
        ("two.wav", 3.0, 4.0, "Dog"),
        ("one.wav", 1.0, 2.0, "Cat"),
        ("none.wav", None, None, None),
    )
    found = [
        ("two.wav", 1.5, 1.8, "Cat"),
        ("two.wav", 3.5, 5.0, "Dog"),
        ("one.wav", 0.0, 9.0, "Cat"),
    ]
    # Of six events one model finds three, the other all; and a wrong class finds nothing.
    estimates = [table(*found, *many[:3]), table(*found, *many, ("many.wav", 0.0, 9.0, "Cat"))]
    assert clip_to_show(reference, estimates) == "two.wav"
    with pytest.raises(InputError, match="hold no event"):
        clip_to_show(table(("none.wav", None, None, None)), estimates)


@pytest.fixture
def trials(tmp_path):
    """Configuration, and the folders of two trials that found the dog in a.wav."""
    reference = tmp_path / "test.tsv"
    reference.write_text(REFERENCE.to_csv(sep="\t", index=False))
    (tmp_path / "conf.yaml").write_text("")
    paths = {"test_tsv": str(reference), "test_folder": str(tmp_path)}
    config = load_config(tmp_path / "conf.yaml", {"data": paths})
    folders = {}
    for name in ("baseline", "coherence"):
        said = Posteriors()
        said.filenames, said.seconds = ["a.wav", "b.wav"], [10.0, 10.0]
        said.strong = [np.full((FRAMES, len(CLASSES)), 0.4, dtype=np.float32)] * 2
        place = tmp_path / name / "metrics_test" / "student"
        said.save(place / "posteriors.npz", CLASSES)
        write_detections(place, "student", table(("a.wav", 1.1, 3.0, "Dog")), {})
        folders[name] = tmp_path / name
    return folders, config


def test_the_clip_is_drawn_for_each_model(trials):
    folders, config = trials
    figure = draw_clip(folders, "student", config)
    assert "a.wav" in [text.get_text() for panel in figure.axes for text in panel.texts] + [
        panel.get_title(loc="left") or panel.get_title() for panel in figure.axes
    ] + [figure.get_suptitle()]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"baseline", "coherence", "reference event"} <= set(labels)
    assert figure.axes[-1].get_xlim()[1] == pytest.approx(FRAMES * 0.064)
    (folders["coherence"] / "metrics_test" / "student" / "posteriors.npz").unlink()
    with pytest.raises(InputError, match=r"coherence.*posteriors\.npz"):
        draw_clip(folders, "student", config)
