"""The commands of docs/own_recordings.md, on made sounds."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "own_recordings.md"
CLASSES = ["car_horn", "dog_bark", "drill", "engine", "gun_shot", "siren"]
RATE = 22050
SMALL = [
    "--set",
    "training.n_epochs=2",
    "training.n_epochs_warmup=1",
    "training.min_steps=0",
    "training.validation_interval=1",
    "training.n_test_thresholds=3",
    "--gpus",
    "cpu",
    "--quiet",
]

pytestmark = pytest.mark.slow


def write_recordings(folder, clips, seed):
    """Clips of about four seconds: class k of six is a tone at 300 (k + 1) Hz."""
    rng = np.random.default_rng(seed)
    rows = ["filename\tonset\toffset\tevent_label"]
    folder.mkdir(parents=True)
    for clip in range(clips):
        name = f"street_{clip:03d}.flac"
        time = np.arange(int(rng.uniform(3.5, 5) * RATE)) / RATE
        sound = 0.01 * rng.standard_normal(len(time))
        for label in {clip % 6, *rng.integers(6, size=2)}:
            onset, offset = rng.uniform(0.2, 1.5), rng.uniform(2, 3.4)
            active = (time >= onset) & (time < offset)
            sound[active] += 0.1 * np.sin(2 * np.pi * 300 * (label + 1) * time[active])
            rows.append(f"{name}\t{onset:.3f}\t{offset:.3f}\t{CLASSES[label]}")
        soundfile.write(folder / name, sound, RATE)
    soundfile.write(folder / "still.flac", 0.01 * rng.standard_normal(4 * RATE), RATE)
    rows.append("still.flac\t\t\t")
    folder.with_suffix(".tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def commands():
    """The commands of the page by their recipe: its name and its arguments."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert all(words[0] == "python" and words[1].startswith("recipes/") for words in lines)
    return [(Path(words[1]).name, words[2:]) for words in lines]


def expanded(word, folder):
    """What a shell makes of a word."""
    if "*" not in word:
        return [word]
    result = sorted(str(path.relative_to(folder)) for path in folder.glob(word))
    assert result, word
    return result


def test_from_folders_of_audio_and_tables_to_detections(
    main, refused, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for number, (name, clips) in enumerate((("train", 18), ("validation", 6), ("test", 6))):
        write_recordings(tmp_path / "recordings" / name, clips, number)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    output = {}
    for recipe, words in commands():
        words = [one for word in words for one in expanded(word, tmp_path)]
        more = SMALL if recipe.startswith("train") else []
        main(recipe, *words, *more)
        output[recipe] = capsys.readouterr().out
    # The last of the preparation is the check.
    assert output["prepare_desed.py"].startswith(f"classes: {', '.join(CLASSES)}\n")
    assert "problems: none" in output["prepare_desed.py"]
    assert "event F1, macro" in output["train_sed_coherence.py"]
    table = pd.read_csv(tmp_path / "detections.tsv", sep="\t")
    assert table["filename"].nunique() == 7
    assert set(table["event_label"].dropna()) <= set(CLASSES)
    assert "7 clips" in output["evaluate.py"]
    # The checkpoint tells the classes to whoever tests it, and holds them against others.
    test = ["--conf_file", "recipes/confs/own_recordings.yaml", "--data", "data/own"]
    test += ["--log_dir", "exp/test", "--test_from_checkpoint"]
    test += expanded("exp/own/coherence/trial_0/epoch=*.ckpt", tmp_path)
    trained = tmp_path / "data/own/metadata/train/synthetic21_train/soundscapes.tsv"
    trained.write_text(trained.read_text().replace("siren", "train"))
    main("train_sed_coherence.py", *test, *SMALL)
    assert "event_f1_macro" in capsys.readouterr().out
    others = ["--set", "data.classes=[car_horn,dog_bark,drill,engine,gun_shot,rain,siren]"]
    words = "has the classes car_horn, dog_bark, drill, engine, gun_shot, siren, and"
    assert words in refused("train_sed_coherence.py", *test, *others)
