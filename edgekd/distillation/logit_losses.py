"""The losses on outputs, from their settings."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from edgekd import loss_settings as settings
from edgekd.algorithms import (
    balanced_kl,
    embedding_loss,
    hard_class,
    kd_loss,
    margin_preserving,
    meal,
    plackett_luce,
    repeated_distillation,
    sample_mix,
    sinkhorn,
    ssld,
    standardized_kl,
    taid,
    top_k_kl,
)
from edgekd.distillation.term import Answers, Pairing, Term, of_labels, of_logits

ANYTHING: frozenset[str] = frozenset()


def kl(options: settings.Kl) -> Term:
    """Return the term of ``kl_loss``."""
    return of_logits(kd_loss.NEEDS, partial(kd_loss.kl_loss, temperature=options.temperature))


def hard_class_term(_: settings.HardClass) -> Term:
    """Return the term of ``hard_class_loss``."""
    return of_logits(hard_class.NEEDS, hard_class.hard_class_loss)


def standardized(options: settings.StandardizedKl) -> Term:
    """Return the term of ``standardized_kl``."""
    loss = partial(standardized_kl.standardized_kl, temperature=options.temperature)
    return of_logits(standardized_kl.NEEDS, loss)


def top_k(options: settings.TopKKl, pair: Pairing) -> Term:
    """Return the term of ``top_k_kl``; raises ValueError where k leaves out no class."""
    classes = pair.student.classes
    if classes and options.top_k >= classes:
        raise ValueError(
            f"'top_k: {options.top_k}' leaves out none of the model's {classes} classes; "
            f"give at most {classes - 1}, or use 'kl'"
        )
    loss = partial(top_k_kl.top_k_kl, temperature=options.temperature, k=options.top_k)
    return of_logits(top_k_kl.NEEDS, loss)


def sinkhorn_term(options: settings.Sinkhorn) -> Term:
    """Return the term of ``sinkhorn_loss``."""
    loss = partial(
        sinkhorn.sinkhorn_loss,
        temperature=options.temperature,
        epsilon=options.epsilon,
        iterations=options.iterations,
    )
    return of_logits(sinkhorn.NEEDS, loss)


def balanced(options: settings.BalancedKl) -> Term:
    """Return the term of ``balanced_kl_loss``."""
    loss = partial(
        balanced_kl.balanced_kl_loss, temperature=options.temperature, stress=options.stress
    )
    return of_logits(balanced_kl.NEEDS, loss)


def ssld_term(options: settings.Ssld) -> Term:
    """Return the term of ``ssld_loss``."""
    return of_logits(ssld.NEEDS, partial(ssld.ssld_loss, temperature=options.temperature))


def meal_term(_: settings.Meal) -> Term:
    """Return the term of ``meal_loss``: what comes as the teacher's logits is the average."""
    return of_logits(meal.NEEDS, lambda student, teacher: meal.meal_loss(student, [teacher]))


def mse(_: settings.RelativeMse) -> Term:
    """Return the term of ``relative_mse_loss``."""
    return of_logits(ANYTHING, kd_loss.relative_mse_loss)


def cosine(_: settings.Cosine, pair: Pairing) -> Term:
    """Return the term of ``cosine_loss``; raises ValueError for an output of one number."""
    if pair.student.outputs[0][-1:] in ((), (1,)):
        raise ValueError("an output of one number has no direction; use 'smooth-l1' or 'mse'")
    return of_logits(embedding_loss.NEEDS, embedding_loss.cosine_loss)


def smooth_l1(options: settings.SmoothL1) -> Term:
    """Return the term of ``scaled_smooth_l1``, scaled by each batch."""

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        if len(teacher) < 2:  # the last batch of a pass may have one sample, which has no deviation
            return kd_loss.relative_mse_loss(student, teacher)
        return embedding_loss.scaled_smooth_l1(student, teacher, beta=options.beta)

    return of_logits(embedding_loss.NEEDS, loss)


def plackett_luce_term(options: settings.PlackettLuce) -> Term:
    """Return the term of ``plackett_luce_loss``."""

    def loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return plackett_luce.plackett_luce_loss(
            student, teacher, labels=labels, temperature=options.temperature
        )

    return of_labels(plackett_luce.NEEDS, loss)


def repeated(options: settings.Repeated) -> Term:
    """Return the term of ``repeated_distillation_loss``; its stage has found what is ``auto``."""
    share = options.label_share
    assert share != "auto"

    def loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return repeated_distillation.repeated_distillation_loss(
            student, teacher, labels=labels, label_share=share
        )

    return of_labels(repeated_distillation.NEEDS | {"labels"}, loss)


def margin(options: settings.MarginPreserving) -> Term:
    """Return the term of ``margin_preserving_loss``, the teacher being the former release."""

    def loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return margin_preserving.margin_preserving_loss(
            student,
            teacher,
            labels=labels,
            base=options.base,
            focus=options.focus,
            temperature=options.temperature,
            form=options.form,
        )

    return of_labels(margin_preserving.NEEDS, loss)


def trust(options: settings.LabelTrust) -> Term:
    """Return the term of ``sample_mix_loss`` with the shares of ``label_trust``."""

    def loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        share = sample_mix.label_trust(teacher, labels)
        return sample_mix.sample_mix_loss(
            student, teacher, labels=labels, share=share, temperature=options.temperature
        )

    return of_labels(sample_mix.NEEDS, loss)


def taid_term(options: settings.Taid, pair: Pairing) -> Term:
    """Return the term of ``taid_loss``, whose target moves over all optimiser steps."""
    schedule = taid.TaidSchedule(
        pair.steps,
        start=options.start,
        end=options.end,
        rate=options.rate,
        momentum=options.momentum,
    )
    latest: list[Tensor] = []

    def compare(seen: Answers) -> Tensor:
        loss = taid.taid_loss(seen.outputs[0], seen.teacher_outputs[0], mix=schedule.mix)
        if torch.is_grad_enabled():
            latest[:] = [loss.detach()]
        return loss

    def after_step() -> None:
        if latest:
            schedule.update(latest.pop())

    return Term(taid.NEEDS, compare, schedule, after_step)
