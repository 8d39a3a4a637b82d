"""How alike two features of the same samples are, whatever their sizes and their axes.

Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019, arXiv
1905.00414, section 3, and Nguyen, Raghu & Kornblith, "Do Wide and Deep Networks Learn the Same
Things?", ICLR 2021, arXiv 2010.15327, equations 2 and 3. A measurement, not a loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Return linear CKA, in [0, 1]: ``|Y'X|_F^2 / (|X'X|_F |Y'Y|_F)`` of the centred features.

    Args:
        x: ``(n, d)``, any further axes count as features; n >= 2.
        y: ``(n, e)``, the same samples.

    1 for features that differ by a rotation, a scale and a shift. 0 where one of them is constant.
    With few samples and many features it is near 1 for anything: ``minibatch_cka`` is not.
    Raises ValueError for unlike or too few samples.
    """
    pairs = _pairs(*_gram(x, y, least=2))
    return _ratio(*(float((first * second).sum()) for first, second in pairs))


def minibatch_cka(batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return linear CKA from batches: the unbiased HSIC of each, averaged before the ratio.

    Args:
        batches: for each, a feature ``(n, d)`` and one ``(n, e)`` of the same samples, n >= 4.
            Further axes count as features. Batches may differ in n.

    It is near 0 for unrelated features however few the samples, so it may also be a little
    below 0, and above 1. Raises ValueError for unlike or too few samples, or no batch.
    """
    sums, count = [0.0, 0.0, 0.0], 0
    for x, y in batches:
        found = (unbiased_hsic(a, b) for a, b in _pairs(*_gram(x, y, least=4)))
        sums, count = [total + value for total, value in zip(sums, found, strict=True)], count + 1
    if not count:
        raise ValueError("CKA needs one batch or more")
    return _ratio(*sums)


def cka_table(batches: Iterable[tuple[Iterable[Tensor], Iterable[Tensor]]]) -> list[list[float]]:
    """Return ``minibatch_cka`` of every feature of one network with every one of another.

    Args:
        batches: for each, the features of both networks for the same samples, n >= 4; the same
            number of features in every batch. Each feature is read once, the first network's first.

    Row i, column j compares feature i of the first network with feature j of the second. Each
    feature's Gram matrix is computed once. Raises ValueError as ``minibatch_cka`` does.
    """
    sums: list[Tensor] = []
    for sides in batches:
        first, second = ([_gram_of(x, least=4) for x in side] for side in sides)
        if len({len(gram) for gram in (*first, *second)}) > 1:
            raise ValueError("CKA needs the same samples for all features")
        found = [
            _float64([[unbiased_hsic(k, g) for g in second] for k in first]),
            *(_float64([unbiased_hsic(k, k) for k in side]) for side in (first, second)),
        ]
        sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
    if not sums:
        raise ValueError("CKA needs one batch or more")
    table, rows, columns = (total.tolist() for total in sums)
    return [
        [_ratio(value, row, column) for value, column in zip(values, columns, strict=True)]
        for values, row in zip(table, rows, strict=True)
    ]


def unbiased_hsic(first: Tensor, second: Tensor) -> float:
    """Return the unbiased estimate of HSIC from two Gram matrices ``(n, n)``, n >= 4.

    With the diagonals set to 0: ``[tr(KL) + 1'K1 1'L1 / ((n-1)(n-2)) - 2 1'KL1 / (n-2)] /
    (n(n-3))``. Source: Song et al., "Feature Selection via Dependence Maximization", JMLR 2012,
    section 4, which the above papers use.
    """
    n = len(first)
    if n < 4:
        raise ValueError(f"the unbiased HSIC needs four samples, not {n}")
    k, l = (gram - torch.diag(gram.diagonal()) for gram in (first, second))  # noqa: E741
    whole = (k * l.T).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2))
    return float((whole - 2 * (k.sum(0) @ l.sum(1)) / (n - 2)) / (n * (n - 3)))


def _gram(x: Tensor, y: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Return the centred features' Gram matrices in float64; centring leaves HSIC as it is."""
    if len(x) != len(y) or len(x) < least:
        raise ValueError(f"CKA needs {least} samples or more, the same for both features")
    return _gram_of(x, least), _gram_of(y, least)


def _gram_of(x: Tensor, least: int) -> Tensor:
    if len(x) < least:
        raise ValueError(f"CKA needs {least} samples or more, not {len(x)}")
    centred = _centred(x)
    return centred @ centred.T


def _centred(feature: Tensor) -> Tensor:
    feature = feature.detach().flatten(1).double()
    centred = feature - feature.mean(0)
    # What rounding leaves of a constant is no feature.
    constant = centred.square().sum() <= 1e-24 * feature.square().sum()
    return torch.zeros_like(centred) if constant else centred


def _float64(values: list[list[float]] | list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _pairs(first: Tensor, second: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    return (first, second), (first, first), (second, second)


def _ratio(both: float, first: float, second: float) -> float:
    scale = first * second
    return both / math.sqrt(scale) if first > 0 and second > 0 and scale > 0 else 0.0
