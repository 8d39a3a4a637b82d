"""Patterns of zeros, as the recipe names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from torch import Tensor

from edgekd.algorithms.global_mask import block_masks, unstructured_masks
from edgekd.algorithms.nm_mask import nm_mask
from edgekd.errors import StageError


@dataclass(frozen=True)
class NM:
    """``kept`` of every ``group`` weights along the inputs stay."""

    kept: int
    group: int

    @property
    def sparsity(self) -> float:
        """Share of the weights that is zero."""
        return 1.0 - self.kept / self.group

    def __str__(self) -> str:
        return f"{self.kept}:{self.group}"


@dataclass(frozen=True)
class Unstructured:
    """The lowest ``sparsity`` of all weights are zero, wherever they are."""

    sparsity: float

    def __str__(self) -> str:
        return "unstructured"


@dataclass(frozen=True)
class Block:
    """The lowest ``sparsity`` of all blocks of ``outputs`` x ``inputs`` weights are zero."""

    sparsity: float
    outputs: int
    inputs: int

    def __str__(self) -> str:
        return f"blocks of {self.outputs} x {self.inputs}"


Pattern = NM | Unstructured | Block
Masks = dict[str, Tensor]  # by the name of a weight: True where it stays


def parse_pattern(text: str, sparsity: float | None, block: tuple[int, int]) -> Pattern:
    """Return the pattern that the keys of a recipe mean.

    Raises StageError for keys that contradict each other.
    """
    if ":" in text:
        kept, group = map(int, text.split(":"))
        if kept >= group:
            raise StageError(
                f"sparsify: pattern {text} leaves out nothing: N:M keeps N of every M weights, so "
                "N has to be smaller, as in 2:4"
            )
        if sparsity is not None and sparsity != NM(kept, group).sparsity:
            raise StageError(
                f"sparsify: pattern {text} is a sparsity of {NM(kept, group).sparsity:g}, not "
                f"{sparsity:g}: leave 'sparsity' out"
            )
        return NM(kept, group)
    if sparsity is None:
        raise StageError(
            f"sparsify: pattern {text} needs 'sparsity', the share of the weights that goes (0.75)"
        )
    return Block(sparsity, *block) if text == "block" else Unstructured(sparsity)


def misfit(pattern: Pattern, weight: Tensor) -> str | None:
    """Return why the pattern cannot be put on a weight ``(O, I, ..)``, None where it can."""
    outputs, inputs = weight.shape[:2]
    match pattern:
        case NM(group=group):
            if inputs % group:
                return f"its {inputs} inputs are no multiple of {group}"
        case Block(outputs=a, inputs=b):
            if outputs % a or inputs % b:
                return f"blocks of {a} x {b} do not fill its {outputs} outputs and {inputs} inputs"
        case Unstructured():
            pass
        case _:
            assert_never(pattern)
    return None


def magnitude_masks(
    pattern: Pattern, weights: Mapping[str, Tensor], sparsity: float | None = None
) -> Masks:
    """Return which weights stay, by magnitude.

    ``sparsity`` takes the place of the pattern's own, on the way there; N:M has only one.
    """
    names, scores = list(weights), [weight.detach().abs() for weight in weights.values()]
    wanted = pattern.sparsity if sparsity is None else sparsity
    match pattern:
        case NM(kept=kept, group=group):
            found = [nm_mask(score, kept, group) for score in scores]
        case Unstructured():
            found = unstructured_masks(scores, wanted)
        case Block(outputs=a, inputs=b):
            found = block_masks(scores, wanted, (a, b))
        case _:
            assert_never(pattern)
    return dict(zip(names, found, strict=True))


def fulfils(pattern: Pattern, other: str) -> bool:
    """Tell whether every weight of ``pattern`` also has the zeros of ``other`` (``2:4``).

    1:2 and 1:4 do: what runs 2:4 needs at least two zeros in four.
    """
    if not isinstance(pattern, NM) or ":" not in other:
        return str(pattern) == other
    kept, group = map(int, other.split(":"))
    if group % pattern.group == 0:
        return pattern.kept * (group // pattern.group) <= kept
    return pattern.group % group == 0 and pattern.kept <= kept
