"""Progress and tables, on terminals and in pipes."""

from __future__ import annotations

import pytest
from edgekd_cli import console, output
from edgekd_cli.console import Bars, Lines, open_progress


def test_pipes_get_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    progress = open_progress()
    assert isinstance(progress, Lines)
    with progress.task("Measuring [x]", 3) as advance:
        advance(3)
    progress.note("a note")
    captured = capsys.readouterr()
    assert captured.out == ""
    start, end, note = captured.err.splitlines()
    assert (start, note) == ("Measuring [x] ...", "a note")
    assert end.startswith("Measuring [x]: done in ")


def test_lines_tell_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with Lines().task("Training", 10) as advance:
        now += 1
        advance(1)  # too soon to report
        now += 19
        advance(3)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["Training ...", "Training: 4/10, 30 s left", "Training: done in 20.0 s"]


def test_a_failed_task_is_not_called_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), Lines().task("Training", 2):
        raise ZeroDivisionError
    assert capsys.readouterr().err == "Training ...\n"


def test_bars_nest_and_notes_keep_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars()
    with bars.task("outer [a]", 2) as advance, bars.task("inner", 0):
        bars.note("layer [0] done")
        advance(2)
    with bars.task("again", 1):
        pass
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "outer [a]" in captured.err
    assert "layer [0] done" in captured.err
    assert "again" in captured.err


def test_tables_keep_brackets_and_long_words(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_table(("name", ">value", ""), [("a[0]", "1", "x" * 300)])
    text = capsys.readouterr().out
    assert "a[0]" in text
    assert text.count("x") == 300


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB")]
)
def test_size(n_bytes: float, text: str) -> None:
    assert output.size(n_bytes) == text


def test_percent() -> None:
    assert (output.percent(0.91642), output.percent(None)) == ("91.64 %", "-")
