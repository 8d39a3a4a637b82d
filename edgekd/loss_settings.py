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


class HardClass(Settings):
    """Cross entropy with the teacher's class."""

    loss: Literal["hard-class"]
    weight: Weight = 1.0


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
    """Squared error of the probabilities, a ``label_share`` of it to the label.

    ``auto``: the share that is best for ridge regression on the teacher's last features.
    """

    loss: Literal["repeated"]
    weight: Weight = 1.0
    label_share: Share | Literal["auto"] = 0.6


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


class Layers(Settings):
    """Two modules, by path, whose outputs are compared."""

    student: Annotated[str, Field(min_length=1)]
    teacher: Annotated[str, Field(min_length=1)]


class DualHead(Settings):
    """The teacher's logits, learnt by a second head for training only."""

    loss: Literal["dual-head"]
    weight: Weight = 1.0
    temperature: Positive = 2.0
    hidden: Count | None = 200
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    layers: tuple[Layers, ...] = ()


class Hint(Settings):
    """Squared error of features, behind a projector where channels differ."""

    loss: Literal["hint"]
    weight: Weight = 10.0
    layers: tuple[Layers, ...] = ()


class SquareHead(Settings):
    """Squared error of features over the teacher's own square, added up over the layers."""

    loss: Literal["squarehead"]
    weight: Weight = 1.0
    layers: tuple[Layers, ...] = ()


class AttentionTransfer(Settings):
    """Where maps are active, added up over the layers."""

    loss: Literal["attention-transfer"]
    weight: Weight = 1000.0
    power: Positive = 2.0
    layers: tuple[Layers, ...] = ()


class Relational(Settings):
    """Distances and angles between the samples of a batch."""

    loss: Literal["relational"]
    weight: Weight = 1.0
    distance: Weight = 25.0
    angle: Weight = 50.0
    layers: tuple[Layers, ...] = ()


class MutualInformation(Settings):
    """A bound on what the student's feature tells about the teacher's, by learned critics."""

    loss: Literal["mutual-information"]
    weight: Weight = 1.0
    alpha: Share = 0.5
    hidden: Count = 512
    out: Count = 16
    layers: tuple[Layers, ...] = ()


class ScaleKd(Settings):
    """Two views of the last maps, behind attention projectors; weights are for 7 x 7 places."""

    loss: Literal["scale-kd"]
    weight: Weight = 1.0
    direct: Weight = 0.08
    centred: Weight = 0.06
    heads: Count = 8
    layers: tuple[Layers, ...] = ()


class OneForAll(Settings):
    """The teacher's logits and the label, learnt by the output and a branch behind each stage."""

    loss: Literal["one-for-all"]
    weight: Weight = 1.0
    exponent: Annotated[Number, Field(ge=1)] = 1.0
    temperature: Positive = 1.0
    layers: tuple[Layers, ...] = ()


class TokenGraph(Settings):
    """How tokens, or places of a map, lie to one another."""

    loss: Literal["token-graph"]
    weight: Weight = 1.0
    tokens: Count = 256
    neighbours: Count = 8
    temperature: Positive = 0.1
    layers: tuple[Layers, ...] = ()


class ChannelWise(Settings):
    """Where each channel of a map is active."""

    loss: Literal["channel-wise"]
    weight: Weight = 50.0
    temperature: Positive = 4.0
    layers: tuple[Layers, ...] = ()


class MiniLm(Settings):
    """Relations between the queries, the keys and the values of the last attention layer."""

    loss: Literal["minilm"]
    weight: Weight = 1.0
    heads: Count = 12


class First(Settings):
    """Divergence on the teacher's ``top_k`` likeliest classes alone, as if only they were known."""

    loss: Literal["first"]
    weight: Weight = 1.0
    top_k: Count = 5
    normalize: Literal["linear", "softmax"] = "linear"
    temperature: Positive = 1.0
    smoothing: Share = 0.0
    rest: Annotated[bool, Field(strict=True)] = False


class FerKd(Settings):
    """Cross-entropy with the teacher, or with softened labels where it is not sure."""

    loss: Literal["ferkd"]
    weight: Weight = 1.0
    lowest: Share = 0.15
    middle: Share = 0.3
    highest: Share = 1.0
    smoothing: Share = 0.1


class TwoTeacher(Settings):
    """Regression, helped by a teacher of the truth and one of a smoothed truth."""

    loss: Literal["two-teacher"]
    weight: Weight = 1.0
    main_weight: Weight = 2.0
    tough_weight: Weight = 1.0
    tolerant_weight: Weight = 1.0


class Bins(Settings):
    """Coordinates as logits over bins, one output for each axis."""

    loss: Literal["bins"]
    weight: Weight = 0.1
    sharpness: Positive = 10.0


class DenseKl(Settings):
    """``kl`` at every pixel, or at those that have a label."""

    loss: Literal["dense-kl"]
    weight: Weight = 1.0
    temperature: Positive = 1.0
    labelled_only: Annotated[bool, Field(strict=True)] = False


class Context(Settings):
    """Squared error of maps and of their means over coarser grids, added up over the layers."""

    loss: Literal["context"]
    weight: Weight = 1.0
    layers: tuple[Layers, ...] = ()


class Fusion(Settings):
    """``context`` of maps, each fused with what deeper stages know."""

    loss: Literal["fusion"]
    weight: Weight = 1.0
    width: Count = 64
    layers: tuple[Layers, ...] = ()


class PatchEmbedding(Settings):
    """Squared error of what a transformer's stages begin with; the last ones count most."""

    loss: Literal["patch-embedding"]
    weight: Weight = 1.0
    stage_weights: tuple[Weight, ...] | None = None
    layers: tuple[Layers, ...] = ()


class Acam(Settings):
    """Maps under masks that both networks choose; null: one for each class at pixels, else 6."""

    loss: Literal["acam"]
    weight: Weight = 1.0
    diversity: Weight = 1.0
    masks: Count | None = None
    layers: tuple[Layers, ...] = ()


LossSettings: TypeAlias = Annotated[
    Kl
    | HardClass
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
    | LabelTrust
    | DualHead
    | Hint
    | SquareHead
    | AttentionTransfer
    | Relational
    | MutualInformation
    | ScaleKd
    | OneForAll
    | TokenGraph
    | ChannelWise
    | MiniLm
    | First
    | FerKd
    | TwoTeacher
    | Bins
    | DenseKl
    | Context
    | Fusion
    | PatchEmbedding
    | Acam,
    Field(discriminator="loss"),
]
