import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import samples

from edgekd.algorithms.label_share import RIDGES, Share, probe_label_share


def data(noise: float, wrong: float) -> tuple[torch.Tensor, ...]:
    """Two classes by the sign of a feature; labels and the teacher's answers are wrong at times."""
    x, held = samples(400, 6).double(), samples(200, 6, seed=1).double()
    y = (x[:, 0] > 0).long()
    flips = torch.rand(400, generator=torch.Generator().manual_seed(2))
    labels = torch.where(flips < noise, 1 - y, y)
    mistakes = torch.rand(400, generator=torch.Generator().manual_seed(3))
    answers = torch.where(mistakes < wrong, 1 - y, y)
    truth = F.one_hot((held[:, 0] > 0).long(), 2)
    return x, F.one_hot(labels, 2), F.one_hot(answers, 2).double(), held, truth


def test_labels_that_are_right_outweigh_a_teacher_that_is_not_and_the_other_way() -> None:
    for noise, wrong, best in ((0.0, 0.4, 1), (0.4, 0.0, 0)):
        share = probe_label_share(*data(noise=noise, wrong=wrong))
        assert share.best == pytest.approx(best, abs=0.1) and share.error < 0.1


def test_a_teacher_that_repeats_the_labels_changes_nothing() -> None:
    x, labels, _, held, truth = data(0.1, 0.0)
    assert probe_label_share(x, labels, labels.double(), held, truth) == Share(1.0, math.inf)


def test_a_teacher_that_nearly_repeats_the_labels_leaves_the_share_open() -> None:
    x, labels, _, held, truth = data(0.2, 0.0)
    nearly = labels.double().clone()
    nearly[:2] = 1 - nearly[:2]
    assert probe_label_share(x, labels, nearly, held, truth).error > 0.25


def test_the_error_is_the_spread_over_other_held_out_samples() -> None:
    x, labels, answers, held, truth = data(0.2, 0.2)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(200, (200,), generator=generator) for _ in range(200)]
    found = [probe_label_share(x, labels, answers, held[i], truth[i]) for i in drawn]
    shares = torch.tensor([share.best for share in found])
    whole = probe_label_share(x, labels, answers, held, truth)
    assert 0 < whole.best < 1
    assert whole.error == pytest.approx(shares.std().item(), rel=0.3)


def test_the_share_is_that_of_a_search_with_the_regression_written_out() -> None:
    x, labels, answers, held, truth = (part.double().numpy() for part in data(0.2, 0.2))
    design = np.c_[x - x.mean(0), np.ones(len(x))]
    tried = np.c_[held - x.mean(0), np.ones(len(held))]
    gram = design.T @ design
    scale = np.trace(gram[:-1, :-1]) / 6

    def guess(targets: np.ndarray, ridge: float) -> np.ndarray:
        penalty = np.diag([ridge * scale] * 6 + [0.0])  # none for the intercept
        return tried @ np.linalg.solve(gram + penalty, design.T @ targets)

    ridge = min(RIDGES, key=lambda r: np.square(guess(labels, r) - truth).sum())
    grid = np.linspace(0, 1, 4001)
    mixed = [a * guess(labels, ridge) + (1 - a) * guess(answers, ridge) for a in grid]
    best = grid[np.argmin([np.square(found - truth).sum() for found in mixed])]
    assert probe_label_share(*data(0.2, 0.2)).best == pytest.approx(best, abs=1e-3)
