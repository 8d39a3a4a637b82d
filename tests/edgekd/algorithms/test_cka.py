import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import samples

from edgekd.algorithms.cka import cka_table, linear_cka, minibatch_cka, unbiased_hsic


def vectors(count: int, channels: int, seed: int = 0) -> torch.Tensor:
    return samples(count, channels, seed=seed).double()


@given(st.floats(0.01, 100), st.floats(-5, 5), st.integers(0, 99))
def test_a_rotation_a_scale_and_a_shift_do_not_count(scale: float, shift: float, seed: int) -> None:
    x, y = vectors(9, 4), vectors(9, 6, seed=1)
    rotation = torch.linalg.qr(vectors(4, 4, seed=seed + 2)).Q
    moved = scale * x @ rotation + shift
    assert linear_cka(moved, y) == pytest.approx(linear_cka(x, y))
    assert linear_cka(moved, x) == pytest.approx(1)
    assert minibatch_cka([(moved, y)]) == pytest.approx(minibatch_cka([(x, y)]))
    assert minibatch_cka([(moved, x)]) == pytest.approx(1)


@given(st.integers(0, 99), st.integers(1, 8), st.integers(1, 8))
def test_it_is_between_nothing_and_one(seed: int, first: int, second: int) -> None:
    x, y = vectors(6, first, seed), vectors(6, second, seed + 1)
    assert -1e-9 <= linear_cka(x, y) <= 1 + 1e-9
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x))


def test_the_feature_form_of_the_paper_gives_the_same() -> None:
    x, y = vectors(12, 3).numpy(), vectors(12, 5, seed=1).numpy()
    a, b = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.norm(b.T @ a) ** 2
    expected /= np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    assert linear_cka(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected)


def test_a_case_worked_out_by_hand() -> None:
    # One feature each: the squared correlation. (-1, 0, 1) and (-1, 2, -1) have none;
    # (-1, 0, 1) and (-4, -1, 5) / 3 have 3^2 / (2 * 42 / 9).
    x = torch.tensor([[0.0], [1.0], [2.0]])
    assert linear_cka(x, torch.tensor([[0.0], [3.0], [0.0]])) == pytest.approx(0, abs=1e-12)
    assert linear_cka(x, torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx(27 / 28)


def test_the_unbiased_form_is_the_mean_over_different_samples() -> None:
    """Song et al., theorem 2: three means over tuples of samples that are all different."""
    count = 5
    x, y = vectors(count, 2).numpy(), vectors(count, 3, seed=1).numpy()
    k, g = x @ x.T, y @ y.T
    one, two, four = [], [], []
    for i in range(count):
        for j in set(range(count)) - {i}:
            one.append(k[i, j] * g[i, j])
            for q in set(range(count)) - {i, j}:
                two.append(k[i, j] * g[i, q])
                for r in set(range(count)) - {i, j, q}:
                    four.append(k[i, j] * g[q, r])
    expected = np.mean(one) + np.mean(four) - 2 * np.mean(two)
    assert unbiased_hsic(torch.from_numpy(k), torch.from_numpy(g)) == pytest.approx(expected)


def test_few_samples_of_many_unrelated_features_are_not_alike_in_batches() -> None:
    batches = [(vectors(8, 100, 2 * i), vectors(8, 100, 2 * i + 1)) for i in range(20)]
    assert linear_cka(*batches[0]) > 0.8  # the bias that the other form is without
    assert abs(minibatch_cka(batches)) < 0.1


def test_half_shared_features_are_found_in_batches_as_in_the_whole() -> None:
    x = vectors(600, 6)
    y = torch.cat([x[:, :3], vectors(600, 3, seed=1)], 1)
    parts = minibatch_cka(zip(x.split(20), y.split(20), strict=True))
    assert parts == pytest.approx(linear_cka(x, y), abs=0.05)


def test_maps_count_as_features_constants_as_unlike_and_few_samples_are_refused() -> None:
    x, maps = samples(6, 3), samples(6, 2, 2, 2, seed=1).half()
    assert linear_cka(x, maps) == pytest.approx(linear_cka(x, maps.float().flatten(1)))
    constant = torch.full((6, 4), 0.7, dtype=torch.float64)  # its mean is not 0.7
    assert linear_cka(x, constant) == minibatch_cka([(x, constant)]) == 0
    with pytest.raises(ValueError, match="4 samples"):
        minibatch_cka([(samples(3, 2), samples(3, 2))])
    with pytest.raises(ValueError, match="four samples"):
        unbiased_hsic(torch.eye(3), torch.eye(3))
    with pytest.raises(ValueError, match="the same"):
        linear_cka(samples(5, 2), samples(6, 2))
    with pytest.raises(ValueError, match="one batch"):
        minibatch_cka([])


def test_a_table_has_the_same_numbers_as_pairs_one_by_one() -> None:
    batches = [
        ([vectors(n, 3, n), vectors(n, 5, n + 1)], [vectors(n, d, n + d) for d in (2, 4, 7)])
        for n in (6, 9)
    ]
    table = cka_table(batches)
    for i in range(2):
        for j in range(3):
            pairs = [(first[i], second[j]) for first, second in batches]
            assert table[i][j] == pytest.approx(minibatch_cka(pairs), abs=1e-12)


def test_a_table_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(ValueError, match="one batch or more"):
        cka_table([])
    with pytest.raises(ValueError, match="same samples"):
        cka_table([([vectors(5, 2)], [vectors(6, 2)])])
    with pytest.raises(ValueError, match="4 samples or more, not 3"):
        cka_table([([vectors(3, 2)], [vectors(3, 2)])])
