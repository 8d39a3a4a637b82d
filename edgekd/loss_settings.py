"""The losses that a ``distill`` stage can name, as typed settings; no torch is imported here.

``edgekd.distillation`` builds what they say. Defaults are those of each loss's own file in
``edgekd.algorithms``, which names their source.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from edgekd.settings import Number, Settings

Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Weight = Annotated[Number, Field(ge=0)]
Count = Annotated[int, Field(ge=1, strict=True)]


class Kl(Settings):
    """Divergence of the class probabilities at ``temperature``, times its square."""

    loss: Literal["kl"]
    weight: Weight = 1.0
    temperature: Positive = 4.0


class RelativeMse(Settings):
    """Squared error of the outputs over the teacher's mean square."""

    loss: Literal["mse"]
    weight: Weight = 1.0


class Cosine(Settings):
    """One minus the cosine of the outputs, for embeddings."""

    loss: Literal["cosine"]
    weight: Weight = 1.0


class SmoothL1(Settings):
    """Smooth absolute error in units of each output's deviation, for regression."""

    loss: Literal["smooth-l1"]
    weight: Weight = 1.0
    beta: Positive = 1.0


class StandardizedKl(Settings):
    """``kl`` of logits that are z-scored over the classes."""

    loss: Literal["standardized-kl"]
    weight: Weight = 1.0
    temperature: Positive = 2.0


class TopKKl(Settings):
    """``kl`` over the teacher's ``top_k`` likeliest classes and one class for the rest."""

    loss: Literal["top-k-kl"]
    weight: Weight = 1.0
    temperature: Positive = 4.0
    top_k: Count = 5


class PlackettLuce(Settings):
    """Likelihood of the teacher's order of the classes behind the label."""

    loss: Literal["plackett-luce"]
    weight: Weight = 1.0
    temperature: Positive = 1.0


class Sinkhorn(Settings):
    """Cost of moving the batch's student outputs onto the teacher's; beside another loss."""

    loss: Literal["sinkhorn"]
    weight: Weight = 0.0256
    temperature: Positive = 2.0
    epsilon: Positive = 0.1
    iterations: Count = 20


class Taid(Settings):
    """Cross-entropy with a target that moves from the student to the teacher."""

    loss: Literal["taid"]
    weight: Weight = 1.0
    start: Share = 0.4
    end: Share = 1.0
    rate: Positive = 5e-4
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.99


class BalancedKl(Settings):
    """Forward and reverse divergence, ``stress`` times the one that the entropies call for."""

    loss: Literal["balanced-kl"]
    weight: Weight = 1.0
    temperature: Positive = 2.0
    stress: Annotated[Number, Field(ge=1)] = 2.0


class Ssld(Settings):
    """The same divergence in both directions."""

    loss: Literal["ssld"]
    weight: Weight = 1.0
    temperature: Positive = 1.0


class Meal(Settings):
    """Cross-entropy with the averaged probabilities of several teachers."""

    loss: Literal["meal"]
    weight: Weight = 1.0


class Repeated(Settings):
    """Squared error of the probabilities, a ``label_share`` of it to the label."""

    loss: Literal["repeated"]
    weight: Weight = 1.0
    label_share: Share = 0.6


class MarginPreserving(Settings):
    """Labels, and what the teacher has right, ``focus`` times: against negative flips."""

    loss: Literal["margin-preserving"]
    weight: Weight = 1.0
    temperature: Positive = 5.0
    base: Weight = 1.0
    focus: Weight = 5.0
    form: Literal["kl", "logits"] = "kl"


class LabelTrust(Settings):
    """``kl`` and labels, each sample's share of ``kl`` the teacher's probability of its label."""

    loss: Literal["label-trust"]
    weight: Weight = 1.0
    temperature: Positive = 1.5


LossSettings: TypeAlias = Annotated[
    Kl
    | RelativeMse
    | Cosine
    | SmoothL1
    | StandardizedKl
    | TopKKl
    | PlackettLuce
    | Sinkhorn
    | Taid
    | BalancedKl
    | Ssld
    | Meal
    | Repeated
    | MarginPreserving
    | LabelTrust,
    Field(discriminator="loss"),
]
