import numpy as np
import pytest
import torch

from edgekd.data.loader import batches, indexed_batches
from edgekd.data.source import open_data
from edgekd.spec import ModelSpec, TensorSpec

SPEC = ModelSpec((TensorSpec("x", "float32", (None, 1)),), (TensorSpec("y", "float32", (None, 2)),))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("loader") / "data.npz"
    x = np.arange(50, dtype=np.float32)[:, None]
    np.savez(
        path, x_train=x, y_train=np.arange(50) % 2, x_val=x[:21] + 100, y_val=np.arange(21) % 2
    )
    return open_data(str(path), calibration_samples=8)


def flat(found) -> list[float]:
    return [value for batch in found for value in batch]


def values(found) -> list[list[float]]:
    return [inputs[0][:, 0].tolist() for inputs, _ in found]


def test_without_an_order_samples_come_as_they_are_to_the_last(dataset) -> None:
    found = values(batches(dataset, dataset.validation, SPEC, 10))
    assert [len(batch) for batch in found] == [10, 10, 1]
    assert flat(found) == [100.0 + i for i in range(21)]


def test_shuffled_batches_hold_every_sample_once_and_follow_the_generator(dataset) -> None:
    def shuffled(seed: int) -> list[list[float]]:
        order = np.random.default_rng(seed)
        return values(batches(dataset, dataset.validation, SPEC, 9, order=order))

    found = shuffled(0)
    assert [len(batch) for batch in found] == [9, 9, 3]
    assert sorted(flat(found)) == [100.0 + i for i in range(21)] != flat(found)
    assert found == shuffled(0) != shuffled(1)


def test_the_order_changes_from_pass_to_pass(dataset) -> None:
    order = np.random.default_rng(0)
    first, second = (
        values(batches(dataset, dataset.train, SPEC, 64, order=order)) for _ in range(2)
    )
    assert first != second


def test_a_single_sample_at_the_end_is_dropped_when_shuffling(dataset) -> None:
    order = np.random.default_rng(0)
    found = values(batches(dataset, dataset.validation, SPEC, 20, order=order))
    assert [len(batch) for batch in found] == [20]
    one = values(batches(dataset, dataset.validation, SPEC, 1, order=order))
    assert len(one) == 21  # batches of one are what was asked for


def test_targets_belong_to_their_samples(dataset) -> None:
    for inputs, targets in batches(dataset, dataset.train, SPEC, 7, order=np.random.default_rng(3)):
        assert isinstance(targets, torch.Tensor) and inputs[0].dtype == torch.float32
        assert torch.equal(inputs[0][:, 0] % 2, targets.float())


def test_indexed_batches_say_where_their_samples_are(dataset) -> None:
    found = list(indexed_batches(dataset, dataset.train, SPEC, 7, order=np.random.default_rng(0)))
    plain = list(batches(dataset, dataset.train, SPEC, 7, order=np.random.default_rng(0)))
    for (chosen, inputs, targets), (same, labels) in zip(found, plain, strict=True):
        arrays, _ = dataset.inputs(dataset.train, chosen)
        assert torch.equal(inputs[0], torch.from_numpy(arrays["x"]))
        assert torch.equal(inputs[0], same[0]) and torch.equal(targets, labels)
