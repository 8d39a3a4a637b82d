from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekd.data.parts import part, unlabelled_places, with_train
from edgekd.data.samples import ArraySamples
from edgekd.data.source import Dataset


def samples(targets: Any) -> ArraySamples:
    count = 4 if targets is None else len(targets)
    return ArraySamples({"x": np.arange(count, dtype=np.float32)[:, None]}, targets)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (None, [0, 1, 2, 3]),
        (np.array([0, -1, 2, -1]), [1, 3]),
        (np.array([0.5, np.nan, -1.0, 0.0]), [1]),
        (np.array([[-1, -1], [-1, 0]]), [0]),  # pixels: one without a class is no image without
    ],
)
def test_samples_without_a_label(targets: Any, expected: list[int]) -> None:
    assert unlabelled_places(samples(targets)).tolist() == expected


def test_a_part_of_the_training_samples_has_a_fingerprint_of_its_own() -> None:
    all_of_it = samples(np.arange(4))
    prints = {"train": {"count": 4, "sha256": "ab", "source": "s"}}
    data = Dataset(all_of_it, all_of_it, all_of_it, None, None, prints)
    one, other = with_train(data, np.array([0, 2])), with_train(data, np.array([2, 0]))
    assert one.train.batch(np.array([1]))[0]["x"].item() == 2
    assert {len(x.fingerprints["train"]["sha256"]) for x in (one, other)} == {64}
    assert one.fingerprints["train"] != other.fingerprints["train"]
    assert one.fingerprints["train"]["count"] == 2
    assert data.fingerprints == prints
    assert part(one.train, np.array([0])).targets.tolist() == [0]  # type: ignore[union-attr]
