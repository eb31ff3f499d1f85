import json

import pytest

from generate import main
from lab.soundscapes import layout

NOTHING_ELSE = ["--weak", "0", "--unlabelled", "0", "--validation", "0", "--test", "0"]


def test_command_generates_a_data_set(tmp_path, capsys):
    main(["--out", str(tmp_path), "--strong", "1", *NOTHING_ELSE, "--processes", "1"])
    assert (tmp_path / layout.SUBSETS["strong"].audio / "strong_00000.wav").exists()
    captured = capsys.readouterr()
    assert captured.out == f"data set ready in {tmp_path}\n"
    assert captured.err == ""


def test_command_passes_on_how_sounds_are_changed(tmp_path):
    requests = ["--augment", "--density", "1.5", "--processes", "1", "--quiet"]
    main(["--out", str(tmp_path), "--strong", "0", *NOTHING_ELSE, *requests])
    made_with = json.loads((tmp_path / layout.MANIFEST).read_text())
    assert (made_with["augment"], made_with["density"]) == (True, 1.5)


def test_quiet_says_nothing(tmp_path, capsys):
    main(["--out", str(tmp_path), "--strong", "0", *NOTHING_ELSE, "--quiet"])
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--strong", "-1"], "error: --strong is -1; give a whole number of at least 0\n"),
        (["--processes", "0"], "error: --processes is 0; give a whole number of at least 1\n"),
        (["--soundbank", "nowhere"], "error: soundbank nowhere has no folder foreground"),
        (["--strong", "many"], "argument --strong: invalid int value: 'many'\n"),
    ],
)
def test_bad_input_ends_with_exit_code_2(tmp_path, capsys, arguments, complaint):
    with pytest.raises(SystemExit) as stop:
        main(["--out", str(tmp_path / "out"), *arguments])
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
