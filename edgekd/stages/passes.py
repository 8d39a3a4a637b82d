"""Passes over the training samples, which can be left in the middle and taken up again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from edgekd.algorithms.augment import augment_images
from edgekd.algorithms.cutout import cutout
from edgekd.data.loader import Batch, indexed_batches
from edgekd.stages.adaptive_samples import Adapt, Adapted, adapted_from
from edgekd.stages.teacher_cache import TeacherOutputs, replayed
from edgekd.state import CompressionState
from edgekd.training_settings import Training


class Passes:
    """A call starts a pass over the training samples, newly shuffled and augmented.

    The teacher's outputs follow the model's inputs where they are known. The random numbers come
    from the state's seed alone. With ``views`` that many versions of each sample take turns, the
    same in every training, instead of new ones. ``adapt`` is asked before each pass but the first.
    """

    def __init__(
        self,
        state: CompressionState,
        options: Training,
        known: TeacherOutputs | None,
        device: torch.device,
        *,
        views: int | None = None,
        adapt: Adapt | None = None,
    ):
        self._views, self._pass = views, -1
        self._adapt, self._adapted = adapt, Adapted()
        self._state, self._options, self._known, self._device = state, options, known, device
        self._order = np.random.default_rng(state.seed)
        self._augmentation = torch.Generator().manual_seed(state.seed)
        self._at_start = self._order.bit_generator.state  # of the pass
        self._done = 0  # batches of the pass
        self._skip = 0  # batches of the next pass that an earlier process has done

    def __call__(self) -> Iterator[Batch]:
        """Yield the batches of one pass, on the device."""
        data, spec, options = self._state.data, self._state.spec, self._options
        self._at_start = self._order.bit_generator.state
        self._pass += 1
        if self._adapt is not None and self._pass > 0 and not self._skip:
            self._adapted = self._adapt()
        self._done, self._skip = self._skip, 0
        adapted = self._adapted
        view = 0 if self._views is None else self._pass % self._views
        for chosen, inputs, targets in indexed_batches(
            data,
            data.train,
            spec,
            options.batch_size,
            order=self._order,
            skip=self._done,
            weights=adapted.weights,
        ):
            if self._views is None:
                images = augment_images(inputs[0], options.augment, self._augmentation)
            else:
                images = replayed(inputs[0], chosen, view, options)
            if adapted.strength is not None:
                images = cutout(images, adapted.strength[chosen], self._augmentation)
            answers = () if self._known is None else self._known.rows(chosen, view)
            self._done += 1
            yield to_device(self._device, ((images, *inputs[1:], *answers), targets))

    def state_dict(self) -> dict[str, Any]:
        """Return where the pass is, as a tensor and plain values."""
        return {
            "order": json.dumps(self._at_start),
            "augmentation": self._augmentation.get_state(),
            "done": self._done,
            "pass": self._pass,
            "adapted": self._adapted.state_dict(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Let the next call go on behind the last batch that was done then."""
        self._order.bit_generator.state = json.loads(saved["order"])
        self._augmentation.set_state(saved["augmentation"])
        self._skip = saved["done"]
        self._pass = saved["pass"] - 1  # the next call goes on with that pass
        self._adapted = adapted_from(saved["adapted"])


def to_device(device: torch.device, batch: Batch) -> Batch:
    """Return the batch's tensors on ``device``."""
    inputs, targets = batch
    moved = tuple(tensor.to(device) for tensor in inputs)
    return moved, None if targets is None else targets.to(device)
