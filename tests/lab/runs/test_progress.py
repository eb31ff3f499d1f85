"""How far trials are, in lines."""

from lab.runs import progress
from lab.runs.progress import Display


def test_lines_tell_how_far_it_is_and_the_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    display = Display(progress=True)
    # Resumed after four epochs: what was trained before says nothing about the pace.
    for quarter in range(17, 41):
        now[0] += 15
        display.show("baseline 1", quarter / 4, 10, "loss 0.500")
    assert capsys.readouterr().err.splitlines() == [
        "baseline 1: epoch 4.25 of 10, loss 0.500",
        "baseline 1: epoch 5 of 10, loss 0.500, 05:00 left",
        "baseline 1: epoch 6 of 10, loss 0.500, 04:00 left",
        "baseline 1: epoch 7 of 10, loss 0.500, 03:00 left",
        "baseline 1: epoch 8 of 10, loss 0.500, 02:00 left",
        "baseline 1: epoch 9 of 10, loss 0.500, 01:00 left",
        "baseline 1: epoch 10 of 10, loss 0.500",
    ]
    Display(progress=False).show("one", 1, 2, "loss 0.5")
    assert capsys.readouterr().err == ""
