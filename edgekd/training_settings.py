"""How networks are trained and what they learn from, as the typed settings of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from edgekd.loss_settings import Count, LossSettings
from edgekd.settings import Number, Settings


class Training(Settings):
    """How a network is trained, whatever it learns.

    Training takes ``epochs`` passes over the data, but at most ``max_steps`` optimiser steps.
    ``augment`` applies to images only. ``ema`` is the decay of a moving average of the weights,
    which is kept in their place. ``clip_norm`` is the largest norm of a gradient that is not made
    shorter. ``mixed_precision`` is for CUDA, and for float models on CPUs with fast bfloat16;
    ``compile`` (by torch.compile) is for CUDA. ``optimizer``: ``adamw``, ``sgd`` (Nesterov momentum
    of 0.9), or ``auto``: ``sgd`` for a float model with BatchNorm, else ``adamw``; without
    ``learning_rate`` and ``weight_decay`` these are 0.05 and 5e-4 for ``sgd``, 1e-3 and 0 for
    ``adamw``.
    """

    epochs: Count = 3
    max_steps: Count = 2000
    batch_size: Count = 64
    optimizer: Literal["auto", "adamw", "sgd"] = "adamw"
    learning_rate: Annotated[Number, Field(gt=0)] | None = 1e-5
    weight_decay: Annotated[Number, Field(ge=0)] | None = None
    augment: Literal["none", "crop", "crop-flip"] = "crop-flip"
    ema: Annotated[Number, Field(gt=0, lt=1)] | None = None
    clip_norm: Annotated[Number, Field(gt=0)] | None = None
    mixed_precision: Annotated[bool, Field(strict=True)] = False
    compile: Annotated[bool, Field(strict=True)] = False


class Distill(Training):
    """Quantization-aware training against the original model's outputs.

    ``loss``: ``kl`` compares class probabilities at ``temperature``, ``standardized-kl`` those of
    z-scored logits, ``top-k-kl`` those of the ``top_k`` likeliest classes, ``mse`` raw outputs;
    ``auto`` is ``kl`` for class logits and ``mse`` otherwise. ``feature_weight`` times the relative
    errors of the tensors between blocks is added, or of those behind ``feature_layers`` (module
    paths, ``*`` for any name between two dots). ``hard_label_weight`` (0 to 1) is the share of the
    labels' cross entropy.
    """

    loss: Literal["auto", "kl", "standardized-kl", "top-k-kl", "mse"] = "auto"
    temperature: Annotated[Number, Field(gt=0)] = 4.0
    top_k: Count = 5
    feature_weight: Annotated[Number, Field(ge=0)] = 0.0
    feature_layers: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    hard_label_weight: Annotated[Number, Field(ge=0, le=1)] = 0.0


class Recovery(Distill):
    """Training of a pruned or sparse float model against the original model: logits and features.

    The keys are those of ``distill`` in a quantize stage, with defaults for larger changes.
    ``feature_weight`` is the weight of SquareHead.
    """

    feature_weight: Annotated[Number, Field(ge=0)] = 1.0
    epochs: Count = 10
    max_steps: Count = 20000
    batch_size: Count = 128
    optimizer: Literal["auto", "adamw", "sgd"] = "auto"
    learning_rate: Annotated[Number, Field(gt=0)] | None = None


class OtherTeacher(Settings):
    """A further teacher: a frozen ``file`` (ONNX or .pt2) of which only outputs are known."""

    file: Annotated[str, Field(min_length=1)]
    weight: Annotated[Number, Field(gt=0)] = 1.0


class UnlabelledSelection(Settings):
    """The ``per_class`` best samples without a label, of which the teacher is sure enough.

    A sample's class is the teacher's. It is the better, the surer the teacher and the less sure the
    student is of it; the student counts only if it starts from weights of its own.
    """

    per_class: Count
    least_confidence: Annotated[Number, Field(ge=0, le=1)] = 0.5


class GapSampling(Settings):
    """Groups on which the student lags behind the teacher are drawn more often, pass by pass.

    ``by``: ``class`` (the label, or the teacher's class), or ``domain`` (with and without labels).
    A group is drawn between ``least`` and ``most`` times as often as any; ``smoothing`` is the part
    that is shared evenly.
    """

    by: Literal["class", "domain"] = "class"
    smoothing: Annotated[Number, Field(ge=0, le=1)] = 0.5
    least: Annotated[Number, Field(ge=0, le=1)] = 0.5
    most: Annotated[Number, Field(ge=1)] = 2.0


Paths = tuple[Annotated[str, Field(min_length=1)], ...]
Part = Literal["head"] | Paths


class DistillStage(Training):
    """A network learns from the original, which may be of any other architecture.

    ``student`` (``FILE.py:factory`` or ``package.module:factory``) builds it; null is the model as
    it is at this place. ``student_weights`` is a checkpoint that it starts from; without one it
    starts from what the factory returns. The original teaches first; ``teachers`` are further ones,
    whose class probabilities are averaged with its own by their weights, ``original_weight`` its
    own. With ``balance_teachers`` temperatures make all of them equally sure first. The original's
    class logits are divided by ``teacher_temperature`` before anything else.

    ``losses`` add up, each times its weight; null is ``kl`` for class logits and ``mse`` otherwise,
    and an empty list none at all. ``label_weight`` times the labels' cross entropy is added.

    ``teacher: previous`` puts the network as it came into this stage in the original's place. With
    ``train_only`` (paths of the student's modules or tensors, ``*`` for any name between two dots,
    or ``head`` for the layers behind the last block) everything else stays as it is, the statistics
    of batch norms too. What ``reset`` names is initialised anew before the training. With ``fade``
    the weights of ``losses``, not that of labels, fall linearly to 0 over the training.

    With ``stored_views`` that many versions of each augmented sample take turns, and what the
    teachers say of them is computed once and kept on disk, features in 16 bits; above
    ``stored_gib`` it is refused. ``stored_top_k`` keeps that many of the likeliest classes.

    ``samples`` are those to train on; ``select_unlabelled`` leaves out some without a label;
    ``keep_fraction`` of what is left is kept, at random or the teacher's easiest or hardest.
    ``label_weight: tied`` shares 1 among labels and losses: the less data, the more of it is the
    teacher's. ``gap_sampling`` draws what the student lags on more often, and ``hard_augment``
    blanks a square in images, the larger the more it disagrees with the teacher; both look at all
    samples before each pass but the first.
    """

    stage: Literal["distill"]
    student: Annotated[str, Field(min_length=1)] | None = None
    student_weights: Annotated[str, Field(min_length=1)] | None = None
    teachers: tuple[OtherTeacher, ...] = ()
    original_weight: Annotated[Number, Field(ge=0)] = 1.0
    balance_teachers: Annotated[bool, Field(strict=True)] = False
    teacher_temperature: Annotated[Number, Field(gt=0)] = 1.0
    losses: tuple[LossSettings, ...] | None = None
    label_weight: Annotated[Number, Field(ge=0)] | Literal["tied"] = 0.0
    teacher: Literal["original", "previous"] = "original"
    train_only: Part = ()
    reset: Part = ()
    fade: Annotated[bool, Field(strict=True)] = False
    samples: Literal["all", "labelled", "unlabelled"] = "all"
    select_unlabelled: UnlabelledSelection | None = None
    keep_fraction: Annotated[Number, Field(gt=0, le=1)] = 1.0
    keep: Literal["random", "easy", "hard"] = "random"
    gap_sampling: GapSampling | None = None
    hard_augment: Annotated[bool, Field(strict=True)] = False
    stored_views: Count | None = None
    stored_top_k: Count | None = None
    stored_gib: Annotated[Number, Field(gt=0)] = 4.0
    epochs: Count = 30
    max_steps: Count = 20000
    batch_size: Count = 128
    optimizer: Literal["auto", "adamw", "sgd"] = "auto"
    learning_rate: Annotated[Number, Field(gt=0)] | None = None
    clip_norm: Annotated[Number, Field(gt=0)] | None = 100.0

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if self.losses == () and self.label_weight == 0:
            raise ValueError("'losses' is empty and 'label_weight' 0, so that nothing is learnt")
        if self.student_weights is not None and self.student is None:
            raise ValueError("'student_weights' without 'student'")
        if self.stored_top_k is not None and self.stored_views is None:
            raise ValueError("'stored_top_k' without 'stored_views'")
        if self.stored_views is not None and self.hard_augment:
            raise ValueError(
                "'stored_views' are the same in every pass, and 'hard_augment' changes them; "
                "leave one out"
            )
        if self.select_unlabelled is not None and self.samples == "labelled":
            raise ValueError("'select_unlabelled' with 'samples: labelled'")
        if self.original_weight == 0 and not self.teachers:
            raise ValueError("'original_weight' is 0, and there are no other 'teachers'")
        return self

    def content(self) -> dict[str, Any]:
        """Return the settings without the names of files, whose content decides a result."""
        found = self.model_dump(mode="json", exclude={"student_weights", "teachers"})
        teachers = [teacher.weight for teacher in self.teachers]
        return {**found, "student": self.student is not None, "teachers": teachers}
