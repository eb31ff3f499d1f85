"""The command that scores the tables of any system."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from libraries import needs_verify

from evaluate import main
from lab.evaluation import reference as reference_scores

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "evaluation"
HEAD = "filename\tonset\toffset\tevent_label\n"
REFERENCE = f"{HEAD}a.wav\t1\t3\tDog\na.wav\t5\t6\tWolf\nb.wav\t\t\t\n"
DURATIONS = "filename\tduration\na.wav\t10\nb.wav\t10\n"


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def files(write):
    """Paths of a reference, of estimates and of durations."""
    estimates = f"{HEAD}a.wav\t1.1\t3.1\tDog\na.wav\t5\t7\tWolf\nb.wav\t1\t2\tSnow\n"
    return [
        write("reference.tsv", REFERENCE),
        write("estimates.tsv", estimates),
        write("durations.tsv", DURATIONS),
    ]


def row(said, name):
    """Cells of the first row of that name."""
    line = next(line for line in said.splitlines() if line.startswith(name))
    return line[len(name) :].split()


@needs_verify
@pytest.mark.slow
def test_every_score_of_real_predictions(tmp_path, capsys):
    tables = {
        name: pd.read_csv(GOLDEN / f"{name}.tsv", sep="\t")
        for name in ("reference", "predictions", "durations", "operating_points")
    }
    points = {t: part for t, part in tables["operating_points"].groupby("threshold")}
    for threshold, part in points.items():
        part.to_csv(tmp_path / f"predictions_th_{threshold:.2f}.tsv", sep="\t", index=False)
    (tmp_path / "predictions_05_teacher.tsv").write_text("not an operating point")
    arguments = [str(GOLDEN / "reference.tsv"), str(GOLDEN / "predictions.tsv")]
    arguments += ["--durations", str(GOLDEN / "durations.tsv"), "--points", str(tmp_path)]
    main(arguments)
    said = capsys.readouterr().out
    reference, estimated, durations = (
        tables[name] for name in ("reference", "predictions", "durations")
    )
    for name, scores in (
        ("event F1 (200 ms, 20 %)", reference_scores.event_based(reference, estimated)),
        ("segment F1 (1 s)", reference_scores.segment_based(reference, estimated)),
        ("intersection F1", reference_scores.intersection_based(reference, estimated, durations)),
    ):
        expected = (scores.macro_f1, scores.micro_f1, scores.strict_macro_f1)
        assert row(said, name) == [f"{100 * value:.2f}" for value in expected]
    first, second = (
        reference_scores.psds(points, reference, durations, scenario=n) for n in (1, 2)
    )
    assert f"PSDS 1 {first:.3f}, PSDS 2 {second:.3f}, from {len(points)} operating points" in said
    f1 = 100 * reference_scores.event_based(reference, estimated).classwise["f1"]["Speech"]
    assert row(said, "Speech")[0] == f"{f1:.1f}"


@pytest.mark.slow
def test_the_official_predictions_have_the_published_scores(shared, tmp_path):
    golden = shared / "golden" / "desed2021_teacher"
    tables = shared / "golden" / "desed_metadata"
    arguments = [tables / "validation.tsv", golden / "predictions0.5.csv"]
    arguments += ["--durations", tables / "validation_durations.tsv"]
    arguments += ["--points", golden / "operating_points", "--figure", tmp_path / "profile"]
    done = subprocess.run(
        [sys.executable, ROOT / "recipes" / "evaluate.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert row(done.stdout, "event F1 (200 ms, 20 %)")[:2] == ["42.14", "42.35"]
    assert row(done.stdout, "segment F1 (1 s)")[:2] == ["71.57", "77.03"]
    assert "PSDS 1 0.353" in done.stdout
    assert row(done.stdout, "all") == ["4,224", "38.0", "12.2", "12.7", "9.2", "1.3", "26.5"]
    assert (tmp_path / "profile.png").stat().st_size > 10_000
    assert (tmp_path / "profile.svg").is_file()


def test_classes_are_those_of_the_tables_and_what_is_left_out_is_said(files, capsys):
    main(files[:2])
    said = capsys.readouterr().out
    assert "2 clips" in said
    assert "no intersection F1 and no PSDS: they need --durations" in said
    assert row(said, "event F1 (200 ms, 20 %)")[0] == "50.00"
    assert row(said, "Wolf") == ["0.0", "66.7"]
    assert row(said, "Snow") == ["-", "-"]
    assert row(said, "all") == ["2", "50.0", "0.0", "50.0", "0.0", "0.0", "0.0"]
    assert re.search(r"^Snow +1 +0.0 +0.0 +0.0 +0.0 +100.0$", said, re.MULTILINE)
    main([*files[:2], "--durations", files[2]])
    said = capsys.readouterr().out
    assert "no PSDS: it needs --points" in said
    assert row(said, "intersection F1") == ["100.00"] * 3  # Snow does not count there


def test_a_system_that_finds_nothing(files, write, tmp_path, capsys):
    nothing = write("points/predictions_th_0.50.tsv", HEAD)
    options = ["--durations", files[2], "--points", str(tmp_path / "points")]
    main([files[0], nothing, *options, "--figure", str(tmp_path / "new" / "profile.png")])
    said = capsys.readouterr().out
    assert row(said, "event F1 (200 ms, 20 %)") == ["0.00"] * 3
    assert "PSDS 1 0.000, PSDS 2 0.000, from 1 operating points" in said
    assert row(said, "all")[-1] == "100.0"
    assert (tmp_path / "new" / "profile.png").is_file()
    # The names of clips alone are the same.
    main([files[0], write("clips.tsv", f"{HEAD}a.wav\t\t\t\n"), *options])
    assert row(capsys.readouterr().out, "all")[-1] == "100.0"


@pytest.mark.parametrize(
    ("place", "text", "words"),
    [
        (0, "filename\tonset\toffset\na.wav\t1\t2\n", "reference.tsv has no column 'event_label'"),
        (0, "", "reference.tsv is not a tab-separated table"),
        (0, HEAD, "reference.tsv holds no event"),
        (0, f"{REFERENCE}a.wav\t2\t4\tDog\n", "the reference: Dog in a.wav overlaps itself at 2.0"),
        (0, f"{REFERENCE}c.wav\t2\t4\tDog\n", "c.wav of the reference has no duration"),
        (1, "filename\tonset\toffset\na.wav\t1\t2\n", "estimates.tsv has no column 'event_label'"),
        (1, "", "estimates.tsv is not a tab-separated table"),
        (1, f"{HEAD}a.wav\t3\t2\tDog\n", "estimates.tsv, line 2: the onset 3 is not before the"),
        (1, f"{HEAD}a.wav\tx\t2\tDog\n", "estimates.tsv, line 2: onset is 'x'"),
        (1, f"{HEAD}c.wav\t1\t2\tDog\n", "c.wav is not in the reference"),
        (1, f"{HEAD}a.wav\t1\t3\tDog\na.wav\t2\t4\tDog\n", "the estimates: Dog in a.wav overlaps"),
        (2, "filename\tduration\na.wav\t10\n", "b.wav of the reference has no duration"),
        (2, "filename\tduration\na.wav\t0\n", "the duration 0 is not above 0"),
    ],
)
def test_odd_tables_end_in_one_sentence(files, write, capsys, place, text, words):
    write(("reference.tsv", "estimates.tsv", "durations.tsv")[place], text)
    refused([*files[:2], "--durations", files[2]], words, capsys)


def test_overlaps_are_counted_where_they_can_be(files, write, capsys):
    overlap = write("overlap.tsv", f"{HEAD}a.wav\t1\t3\tDog\na.wav\t1\t3.1\tDog\n")
    main([files[0], overlap])
    said = capsys.readouterr().out
    assert row(said, "event F1 (200 ms, 20 %)")[1] == "50.00"
    assert re.search(r"^Dog +2 +50.0 +50.0 +0.0 +0.0 +0.0$", said, re.MULTILINE)


def test_bad_arguments(files, write, tmp_path, capsys):
    refused(["nowhere.tsv", files[1]], "nowhere.tsv does not exist", capsys)
    refused([files[0], str(tmp_path)], "is not a file", capsys)
    refused([*files[:2], "--points", str(tmp_path)], "--points needs --durations", capsys)
    options = [*files[:2], "--durations", files[2], "--points"]
    refused([*options, str(tmp_path)], "holds no predictions_th_<threshold>.tsv", capsys)
    write("points/predictions_th_0.50.tsv", "nothing")
    refused([*options, str(tmp_path / "points")], "predictions_th_0.50.tsv has no col", capsys)
    overlap = f"{HEAD}a.wav\t1\t3\tDog\na.wav\t2\t4\tDog\n"
    write("points/predictions_th_0.50.tsv", overlap)
    said = refused([*options, str(tmp_path / "points")], "at threshold 0.5: Dog in a.wav", capsys)
    assert "overlaps itself" in said


def refused(arguments, words, capsys):
    """Run the command, which must end in one sentence and print nothing before it."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert words in said.err
    return said.err
