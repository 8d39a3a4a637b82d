"""Timings are taken once and found again by the next process."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.bench.layers import LayerShape
from edgekd.prune import layer_table
from edgekd.prune.layer_table import LayerTable

SHAPES = [LayerShape("linear", 8, width, (1,)) for width in (8, 16)]


def never(*_args: object, **_options: object) -> list[float]:
    pytest.fail("timed again")


def test_times_each_shape_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = LayerTable(tmp_path, threads=1).times([*SHAPES, *SHAPES])
    assert set(first) == set(SHAPES)
    assert min(first.values()) > 0
    monkeypatch.setattr(layer_table, "time_layers", never)
    assert LayerTable(tmp_path, threads=1).times(SHAPES) == first


def test_batches_of_several_processes_add_up(tmp_path: Path) -> None:
    one, other = LayerTable(tmp_path, threads=1), LayerTable(tmp_path, threads=1)
    times = one.times(SHAPES[:1]) | other.times(SHAPES[1:])
    assert LayerTable(tmp_path, threads=1).times(SHAPES) == times
    again = LayerTable(tmp_path, threads=1)
    assert len(list(again.folder.iterdir())) == 2  # and nothing unfinished


@pytest.mark.parametrize(
    "damaged",
    [b"", b"\xff", b"[]", b'{"layers": 1}', b'{"layers": [{"shape": {"op": "conv"}}]}'],
)
def test_a_damaged_file_is_ignored(
    damaged: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = LayerTable(tmp_path, threads=1)
    times = table.times(SHAPES[:1])
    (table.folder / "0.json").write_bytes(damaged)
    again = LayerTable(tmp_path, threads=1)
    assert again.times(SHAPES[1:])
    monkeypatch.setattr(layer_table, "time_layers", never)
    assert again.times(SHAPES[:1]) == times


def test_other_conditions_are_timed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = LayerTable(tmp_path, threads=1).folder
    assert LayerTable(tmp_path, threads=2).folder != folder
    monkeypatch.setattr(layer_table, "fingerprint", lambda: {"cores": 99})
    assert LayerTable(tmp_path, threads=1).folder != folder
