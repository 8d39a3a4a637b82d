"""Opening both models: what is wrong is said in one line, and whose fault it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from advice_pairs import Cnn, write_pair
from networks import Mlp, build

from edgekd.advice.pair import batches, open_pair
from edgekd.errors import DataError, EdgekdError


def test_a_file_is_trained_and_a_function_is_not(tmp_path: Path) -> None:
    assert open_pair(write_pair(tmp_path, build(Cnn), build(Cnn))).trained
    request = write_pair(tmp_path, build(Cnn), "student")
    first, second = open_pair(request), open_pair(request)
    assert not first.trained
    pairs = zip(first.student.module.parameters(), second.student.module.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)  # the seed decides


def test_a_checkpoint_takes_its_network_from_student_arch(tmp_path: Path) -> None:
    request = write_pair(tmp_path, build(Cnn), "student")
    weights = open_pair(request).student.module.state_dict()
    path = tmp_path / "student.pth"
    torch.save({key: weights[key] for key in weights}, path)
    bare = replace(request, student=str(path))
    with pytest.raises(EdgekdError, match=r"^the student: .* with --student-arch"):
        open_pair(bare)
    assert open_pair(replace(bare, student_arch=request.student)).trained


@pytest.mark.parametrize(
    ("student", "changes", "words"),
    [
        (
            "four_classes",
            {},
            r"the student gives output: float32.N, 4., but the model that",
        ),
        ("other_images", {}, "the student: the model"),
        ("no_module", {}, "the student: .* returned a int"),
        ("absent", {}, "the student: .* has no function absent"),
        ("student", {"student_arch": "x.py:y"}, "the student: --student-arch is for a file"),
        ("student", {"student": "none.pt"}, "the student: none.pt: no such file"),
        ("student", {"data": "none.npz"}, "none.npz: no such file"),
        ("student", {"teacher": Path("none.pt")}, "^none.pt: no such file"),
    ],
)
def test_what_does_not_fit_is_one_line(
    tmp_path: Path, student: str, changes: dict, words: str
) -> None:
    request = replace(write_pair(tmp_path, build(Cnn), student), **changes)
    with pytest.raises(EdgekdError, match=words) as caught:
        open_pair(request)
    assert "\n" not in str(caught.value)


def test_a_teacher_of_other_inputs_is_refused(tmp_path: Path) -> None:
    request = write_pair(tmp_path, build(Cnn), build(Cnn))
    from edgekd.model.save import save_model

    save_model(build(Mlp), torch.zeros(2, 16), tmp_path / "teacher.pt2")
    with pytest.raises(DataError, match="the model takes"):
        open_pair(request)


def test_batches_are_spread_and_small_ones_left_out() -> None:
    found = list(batches(range(1000), 100, least=40))  # type: ignore[arg-type]
    assert [len(batch) for batch in found] == [64]
    found = list(batches(range(1000), 100))  # type: ignore[arg-type]
    assert [len(batch) for batch in found] == [64, 36]
    assert (found[0][0], found[-1][-1]) == (0, 999)
