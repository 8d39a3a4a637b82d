"""What a Jetson's files say, read from recorded trees, and whether its versions fit together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import boards
import pytest
from edgekd_hardware.findings import Finding
from edgekd_hardware.jetson import Jetson, read_jetson, strongest
from edgekd_hardware.jetson_check import findings, stacks_of

from edgekd.device import SoftwareStack

STACKS = (
    SoftwareStack(jetpack="5.1", tensorrt="8.5.2", cuda="11.4", python="3.8"),
    SoftwareStack(jetpack="6.2", tensorrt="10.3", cuda="12.6", python="3.10"),
    SoftwareStack(jetpack="6.2", tensorrt="10.7", cuda="12.6", python="3.10"),
    SoftwareStack(jetpack="7.2", tensorrt="10.16", cuda="13.2", python="3.12"),
    SoftwareStack(jetpack="7.2.2", tensorrt="11.4", cuda="13.2", python="3.12"),
)


def read(root: Path) -> Jetson:
    jetson = read_jetson(root)
    assert jetson is not None
    return jetson


def found(jetson: Jetson, root: Path, python: str = "3.11") -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings(jetson, STACKS, python, root)}


def test_orin_nano_with_jetpack_6(tmp_path: Path) -> None:
    jetson = read(boards.orin_nano(tmp_path))

    assert jetson.model.startswith("NVIDIA Jetson Orin Nano")
    assert (jetson.linux, jetson.jetpack, jetson.jetpack_package) == ("36.4.3", "6.2", "6.2")
    assert (jetson.tensorrt, jetson.cuda) == ("10.3.0.30", "12.6")
    assert (jetson.python, jetson.bindings) == ("3.10", ("3.10",))
    assert [(mode.id, mode.name, mode.watts) for mode in jetson.power_modes] == [
        (0, "15W", 15.0),
        (1, "25W", 25.0),
        (2, "MAXN_SUPER", None),
        (3, "7W", 7.0),
    ]
    assert (jetson.power_mode, jetson.fan_profile) == (1, "quiet")


def test_xavier_with_jetpack_5(tmp_path: Path) -> None:
    jetson = read(boards.xavier_nx(tmp_path))

    assert (jetson.linux, jetson.jetpack, jetson.tensorrt) == ("35.2.1", "5.1", "8.5.2")
    assert jetson.power_mode == 8, "asked of the board's own nvpmodel"
    best = strongest(jetson.power_modes)
    assert best is not None
    assert best.name == "MODE_20W_6CORE"


@pytest.mark.parametrize("board", [boards.raspberry_pi_5, boards.laptop])
def test_other_machines_are_none(tmp_path: Path, board) -> None:
    assert read_jetson(board(tmp_path)) is None


def test_a_fresh_board_fits_and_can_be_made_faster(tmp_path: Path) -> None:
    root = boards.orin_nano(tmp_path)
    by_subject = found(read(root), root)

    assert not [finding for finding in by_subject.values() if finding.state == "missing"]
    assert by_subject["JetPack"] == Finding("JetPack", "ok", "6.2")
    assert "nvpmodel -m 2 (MAXN_SUPER)" in by_subject["power mode"].advice
    assert "sudo jetson_clocks" in by_subject["jetson_clocks"].advice
    assert by_subject["fan"].state == "note"
    python = by_subject["JetPack Python"]
    assert python.state == "note", "edgekd itself runs on a newer Python than JetPack 6 has"
    assert "/usr/bin/python3.10" in python.advice


def test_a_board_at_its_best_has_no_notes(tmp_path: Path) -> None:
    root = boards.xavier_nx(tmp_path)
    by_subject = found(read(root), root, python="3.8")

    assert {finding.state for finding in by_subject.values()} == {"ok"}
    assert by_subject["jetson_clocks"].value == "fixed"


@pytest.mark.parametrize(
    ("bindings", "words"),
    [(("3.6",), "trtexec"), (("3.8", "3.10"), "/usr/bin/python3.10"), (("3.8",), "python3.8")],
)
def test_the_python_that_can_run_bundles(
    tmp_path: Path, bindings: tuple[str, ...], words: str
) -> None:
    root = boards.orin_nano(tmp_path)
    finding = found(replace(read(root), bindings=bindings), root)["JetPack Python"]
    assert finding.state == "note"
    assert words in finding.advice


@pytest.mark.parametrize(
    ("changes", "subject", "words"),
    [
        ({"tensorrt": "8.6.2.3"}, "JetPack TensorRT", ("8.6.2.3", "10.3 or 10.7")),
        ({"tensorrt": None}, "JetPack TensorRT", ("not installed",)),
        ({"cuda": None}, "JetPack CUDA", ("not installed",)),
        ({"python": "3.8"}, "JetPack Python", ("3.8", "3.10")),
        ({"bindings": ()}, "JetPack Python", ("its Python module is not",)),
        ({"jetpack_package": "6.0"}, "JetPack", ("36.4.3", "6.2", "6.0")),
        ({"jetpack": None}, "JetPack", ("unknown", "36.4.3")),
    ],
)
def test_what_does_not_fit_names_both_sides(
    tmp_path: Path, changes: dict[str, object], subject: str, words: tuple[str, ...]
) -> None:
    root = boards.orin_nano(tmp_path)
    finding = found(replace(read(root), **changes), root)[subject]

    assert finding.state == "missing"
    assert all(word in finding.value for word in words), finding.value
    assert "sudo " in finding.advice


def test_a_jetpack_that_nobody_knows_is_a_note(tmp_path: Path) -> None:
    root = boards.orin_nano(tmp_path)
    board = replace(read(root), jetpack="9.1", jetpack_package=None)

    by_subject = found(board, root)

    assert by_subject["JetPack"].state == "note"
    assert by_subject["JetPack TensorRT"].state == "ok", "nothing to compare it with"


@pytest.mark.parametrize(
    ("jetpack", "tensorrt"),
    [("6.2.1", ["10.3", "10.7"]), ("7.2", ["10.16"]), ("7.2.2", ["11.4"]), ("7.2.1", ["10.16"])],
)
def test_the_nearest_listed_release_counts(jetpack: str, tensorrt: list[str]) -> None:
    assert [stack.tensorrt for stack in stacks_of(jetpack, STACKS)] == tensorrt


def test_a_board_that_tells_nothing(tmp_path: Path) -> None:
    root = boards.write(tmp_path, {"proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\0"})
    jetson = read(root)

    assert (jetson.linux, jetson.jetpack, jetson.tensorrt, jetson.power_mode) == (None,) * 4
    by_subject = found(jetson, root)
    assert by_subject["JetPack"].state == "missing"
    assert by_subject["power mode"].state == "note"
