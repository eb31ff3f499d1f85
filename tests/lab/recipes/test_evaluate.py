"""The command that scores the tables of any system."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from evaluate import main
from lab.evaluation.profile import ALL

ROOT = Path(__file__).parents[3]
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


def row(output, name):
    """Cells of the first row of that name."""
    line = next(line for line in output.splitlines() if line.startswith(name))
    return line[len(name) :].split()


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
    assert row(done.stdout, ALL) == ["4,224", "38.0", "12.2", "12.7", "9.2", "1.3", "26.5"]
    assert (tmp_path / "profile.png").stat().st_size > 10_000
    assert (tmp_path / "profile.svg").is_file()


def test_classes_are_those_of_the_tables_and_what_is_left_out_is_said(files, capsys):
    main(files[:2])
    output = capsys.readouterr().out
    assert "2 clips" in output
    assert "no intersection F1 and no PSDS: they need --durations" in output
    assert row(output, "event F1 (200 ms, 20 %)")[0] == "50.00"
    assert row(output, "Wolf") == ["0.0", "66.7"]
    assert row(output, "Snow") == ["-", "-"]
    assert row(output, ALL) == ["2", "50.0", "0.0", "50.0", "0.0", "0.0", "0.0"]
    assert re.search(r"^Snow +1 +0.0 +0.0 +0.0 +0.0 +100.0$", output, re.MULTILINE)
    main([*files[:2], "--durations", files[2]])
    output = capsys.readouterr().out
    assert "no PSDS: it needs --points" in output
    assert row(output, "intersection F1") == ["100.00"] * 3  # Snow does not count there


def test_a_system_that_finds_nothing(files, write, tmp_path, capsys):
    nothing = write("points/predictions_th_0.50.tsv", HEAD)
    options = ["--durations", files[2], "--points", str(tmp_path / "points")]
    main([files[0], nothing, *options, "--figure", str(tmp_path / "new" / "profile.png")])
    output = capsys.readouterr().out
    assert row(output, "event F1 (200 ms, 20 %)") == ["0.00"] * 3
    assert "PSDS 1 0.000, PSDS 2 0.000, from 1 operating points" in output
    assert row(output, ALL)[-1] == "100.0"
    assert (tmp_path / "new" / "profile.png").is_file()
    # The names of clips alone are the same.
    main([files[0], write("clips.tsv", f"{HEAD}a.wav\t\t\t\n"), *options])
    assert row(capsys.readouterr().out, ALL)[-1] == "100.0"


@pytest.mark.parametrize(
    ("place", "text", "words"),
    [
        (0, "filename\tonset\toffset\na.wav\t1\t2\n", "reference.tsv has no column 'event_label'"),
        (0, HEAD, "reference.tsv holds no event"),
        (0, f"{REFERENCE}a.wav\t2\t4\tDog\n", "the reference: Dog in a.wav overlaps itself at 2.0"),
        (1, "", "estimates.tsv has no column 'filename'"),
        (1, f"{HEAD}a.wav\t3\t2\tDog\n", "estimates.tsv, line 2: the onset 3 is not before the"),
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
    output = capsys.readouterr().out
    assert row(output, "event F1 (200 ms, 20 %)")[1] == "50.00"
    assert re.search(r"^Dog +2 +50.0 +50.0 +0.0 +0.0 +0.0$", output, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "how"),
    [("rec/test/a.wav", "name"), ("a.flac", "stem"), ("x/a.WAV", "stem")],
)
def test_names_may_differ_by_folder_or_suffix(files, write, capsys, name, how):
    estimates = write("others.tsv", f"{HEAD}{name}\t1.1\t3.1\tDog\n")
    words = f"{name} is not in the reference; --names {how} finds it there"
    refused([files[0], estimates], words, capsys)
    main([files[0], estimates, "--names", how, "--durations", files[2]])
    assert row(capsys.readouterr().out, "Dog")[0] == "100.0"


def test_names_that_become_one_or_look_alike_are_refused(files, write, capsys):
    estimates = write("others.tsv", f"{HEAD}x/a.wav\t1\t3\tDog\ny/a.wav\t1\t3\tDog\n")
    words = "x/a.wav and y/a.wav are one clip by --names name"
    refused([files[0], estimates, "--names", "name"], words, capsys)
    reference = write("nfc.tsv", f"{HEAD}\u00fc.wav\t1\t3\tDog\n")
    estimates = write("nfd.tsv", f"{HEAD}u\u0308.wav\t1\t3\tDog\n")
    refused([reference, estimates], "looks alike and has other bytes", capsys)


def test_operating_points_have_any_threshold_and_unused_tables_are_named(write, tmp_path, capsys):
    rows = [f"c{n}.wav\t1\t2\tdog\nc{n}.wav\t4\t5\tcat\n" for n in range(10)]
    reference = write("all.tsv", HEAD + "".join(rows))
    lengths = "".join(f"c{n}.wav\t10\n" for n in range(10))
    durations = write("lengths.tsv", f"filename\tduration\n{lengths}")
    write("points/predictions_th_1e-05.tsv", HEAD + "".join(rows))
    write("points/predictions_th_0.5.tsv", HEAD + "".join(rows[:4]))
    for name in ("predictions_05_x.tsv", "predictions_th_nan.tsv", "0.3.tsv"):
        write(f"points/{name}", "")
    options = [reference, reference, "--durations", durations, "--points", str(tmp_path / "points")]
    main(options)
    output = capsys.readouterr().out
    assert "PSDS 1 1.000, PSDS 2 1.000, from 2 operating points; not used of" in output
    assert ": 0.3.tsv, predictions_05_x.tsv, predictions_th_nan.tsv" in output
    write("points/predictions_th_0.50.tsv", HEAD)
    refused(options, "and predictions_th_0.50.tsv have the same threshold", capsys)


def test_bad_arguments(files, write, tmp_path, capsys):
    refused(["nowhere.tsv", files[1]], "nowhere.tsv does not exist", capsys)
    refused([*files[:2], "--points", str(tmp_path)], "--points needs --durations", capsys)
    options = [*files[:2], "--durations", files[2], "--points"]
    refused([*options, str(tmp_path)], "holds no predictions_th_<threshold>.tsv", capsys)
    overlap = f"{HEAD}a.wav\t1\t3\tDog\na.wav\t2\t4\tDog\n"
    write("points/predictions_th_0.50.tsv", overlap)
    refused([*options, str(tmp_path / "points")], "at threshold 0.5: Dog in a.wav overl", capsys)


def refused(arguments, words, capsys):
    """Run the command, which must end in one sentence and print nothing before it."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert words in output.err
