from dataclasses import replace
from pathlib import Path

import pytest
import torch
from advice_pairs import Cnn, Patches, write_pair
from networks import build, network, trace
from torch import nn

from edgekd.advice.features import MOST_TAPS, compare, features
from edgekd.advice.pair import Network, Pair, open_pair
from edgekd.errors import DataError
from edgekd.progress import Silent


def taps(net: nn.Module, *inputs: torch.Tensor) -> list[tuple[str, str, tuple[int, ...]]]:
    module, spec = trace(net, *inputs)
    found = features(Network(module, spec, inputs, None))  # type: ignore[arg-type]
    return [(feature.name, feature.kind, feature.shape) for feature in found]


def test_maps_tokens_and_vectors_are_told_apart() -> None:
    image = torch.randn(2, 3, 8, 8)
    assert taps(build(Cnn), image)[-1][1:] == ("map", (16, 4, 4))
    assert taps(build(Patches), image)[-1][1:] == ("tokens", (16, 8))
    signal, inputs = network("signal")
    assert {(kind, shape) for _, kind, shape in taps(signal, *inputs)} == {("map", (8, 8))}
    mlp, inputs = network("mlp")
    assert {kind for _, kind, _ in taps(mlp, *inputs)} == {"vector"}


def test_of_many_blocks_some_are_taken_and_the_last_is_one() -> None:
    layers = [part for _ in range(40) for part in (nn.Linear(4, 4), nn.ReLU())]
    found = taps(nn.Sequential(*layers, nn.Linear(4, 2)).eval(), torch.randn(2, 4))
    assert len(found) == MOST_TAPS
    assert found[-1][0] == "79"


def test_a_student_that_is_its_teacher_is_wholly_like_it(tmp_path: Path) -> None:
    pair = open_pair(write_pair(tmp_path, build(Cnn), build(Cnn)))
    matches = compare(pair, 0, Silent())
    assert len(matches) == 3
    for match in matches:
        assert match.peer == match.student == match.best
        assert match.similarity == pytest.approx(1)
        assert match.best_similarity == pytest.approx(1)
        assert match.chance is not None and match.chance < 0.999
        assert match.size_ratio == (1, 1)


def test_unlike_networks_have_no_ratio_of_sizes(tmp_path: Path) -> None:
    pair = open_pair(write_pair(tmp_path, build(Cnn), build(Patches)))
    kinds = [(m.student.kind, m.size_ratio is None) for m in compare(pair, 0, Silent())]
    assert kinds[0] == ("map", False)
    assert kinds[1:] == [("tokens", True)] * (len(kinds) - 1)


def test_an_untrained_student_has_nothing_to_be_held_against(tmp_path: Path) -> None:
    pair = open_pair(write_pair(tmp_path, build(Cnn), "student"))
    matches = compare(pair, 0, Silent())
    assert not pair.trained
    assert all(match.chance is None for match in matches)
    assert [match.similarity for match in matches] == [
        match.similarity for match in compare(pair, 1, Silent())
    ]


def test_too_few_samples_are_refused(tmp_path: Path) -> None:
    pair = open_pair(write_pair(tmp_path, build(Cnn), build(Cnn)))
    few = replace(pair.data, calibration=_First(pair.data.calibration, 3))
    sides = [replace(side, data=few) for side in (pair.teacher, pair.student)]
    with pytest.raises(DataError, match="3 samples are too few: give 4 or more"):
        compare(Pair(*sides, trained=True), 0, Silent())


class _First:
    def __init__(self, samples: object, count: int) -> None:
        self.samples, self.count = samples, count

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: object) -> object:
        return self.samples.batch(indices)  # type: ignore[attr-defined]
