"""Run a model with early exits: segment after segment, until a sample is sure enough to leave."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgekd.errors import BundleError, DataError
from edgekd.runtime.cascade_manifest import CascadeManifest
from edgekd.runtime.closing import Closing, closed
from edgekd.runtime.inputs import Inputs, preprocess, zeros
from edgekd.runtime.manifest import Manifest
from edgekd.runtime.steps import CONFIDENCE, make_steps, run_all, run_batch, run_one, time_limit
from edgekd.runtime.tensors import one_line
from edgekd.spec import ModelSpec, TensorSpec

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgekd.runtime.opening import Session


class Answer(NamedTuple):
    """What a cascade gives for a batch.

    ``outputs``: the output array, as calling the cascade returns it. ``exits``: int64 ``(N,)``, the
    index of the exit that each sample took; the number of exits stands for the model's end.
    """

    outputs: npt.NDArray[Any]
    exits: npt.NDArray[np.int64]


class Cascade(Closing):
    """A model with early exits, ready to be called from any number of threads at once.

    It is called like ``Model``. ``spec`` says what goes in and comes out; ``manifest`` is all that
    the bundle says; ``operating_point`` is the name of the thresholds in use and
    ``operating_points`` has those of all, a threshold for each exit (None: nothing leaves there).
    """

    def __init__(self, sessions: Sequence[Session], manifest: Manifest, point: str) -> None:
        cascade = manifest.cascade
        assert cascade is not None  # load() does not come here without
        self.manifest = manifest
        self.spec = manifest.spec
        self.operating_point = point
        self.operating_points: Mapping[str, tuple[float | None, ...]] = cascade.operating_points
        self._sessions: Sequence[Session] | None = sessions
        self._inputs = Inputs(self.spec.inputs)
        self._first = self.spec.inputs[0].name
        self._steps = make_steps(sessions, cascade, point, self.spec.outputs[0].name)

    def __call__(self, /, *arrays: Any, deadline_ms: float | None = None, **named: Any) -> Any:
        """Return the output array for inputs by position or by name, as ``Model`` does.

        ``deadline_ms`` is explained at ``run``.
        """
        return self._compute(arrays, named, deadline_ms)[0]

    def run(self, /, *arrays: Any, deadline_ms: float | None = None, **named: Any) -> Answer:
        """Return the output and the exit of each sample.

        A sample leaves at the first exit whose confidence is above the threshold; the others go
        on as a smaller batch. With ``deadline_ms``, counted from this call, a further segment is
        run only if its stored 99th percentile, for each sample that is left, fits into the time
        that is left; else these samples get the answer of the deepest exit that was run. The
        first segment always runs. Percentiles are of the machine that made the bundle.

        Raises DataError when the inputs do not fit, and BundleError after ``close`` or for a
        deadline where the bundle has no times.
        """
        outputs, exits = self._compute(arrays, named, deadline_ms)
        if isinstance(exits, int):
            return Answer(outputs, np.array((exits,), np.int64))
        return Answer(outputs, exits)

    def with_operating_point(self, name: str) -> Cascade:
        """Return a cascade with other thresholds that shares what is loaded.

        Either can be closed without closing the other. Raises BundleError for an unknown name.
        """
        if self._sessions is None:
            raise closed()
        assert self.manifest.cascade is not None
        check_operating_point(self.manifest.cascade, name)
        return Cascade(self._sessions, self.manifest, name)

    def preprocess(
        self, images: npt.NDArray[np.uint8], name: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Turn a batch of uint8 images into the float32 input, as ``Model.preprocess`` does."""
        return preprocess(self.manifest.preprocessing, images, name)

    def close(self) -> None:
        """Free the memory as soon as running calls are done; closing twice is fine."""
        self._sessions, self._steps = None, ()

    def warmup(self) -> None:
        """Run every segment once on zeros, free axes being 1; raises what a call raises."""
        steps = self._steps
        if not steps:
            raise closed()
        run_all(steps, zeros(self.spec.inputs))

    def _compute(
        self, arrays: Sequence[Any], named: Mapping[str, Any], deadline_ms: float | None
    ) -> tuple[Any, Any]:
        """Return the output and the exits: an int for a batch of 1 on the short way."""
        started = 0.0 if deadline_ms is None else time.perf_counter()
        steps = self._steps  # a local, so that close() in another thread cannot break a call
        if not steps:
            raise closed()
        feed = self._inputs.bind(arrays, named)
        until = None if deadline_ms is None else time_limit(started, deadline_ms, steps)
        try:
            count = feed[self._first].shape[0]
            if until is None and count == 1:
                return run_one(steps, feed)
            return run_batch(steps, feed, count, until)
        except Exception as error:  # the runtimes' errors have no base class in common
            raise DataError(f"the model cannot run on this input: {one_line(error)}") from error


def check_operating_point(cascade: CascadeManifest, name: str) -> None:
    """Raise BundleError, naming the choices, unless ``name`` is an operating point."""
    if name not in cascade.operating_points:
        have = ", ".join(cascade.operating_points)
        raise BundleError(f"the bundle has no operating point {name!r}, only {have}")


def segment_spec(
    session: Session, spec: ModelSpec, cascade: CascadeManifest, index: int
) -> ModelSpec:
    """Return what segment ``index`` has to take and give, by the manifest.

    A segment takes its link, and those of the model's inputs that ``session`` asks for.
    """
    asked = {tensor.name for tensor in session.inputs}
    inputs = [tensor for tensor in spec.inputs if tensor.name in asked]
    link = cascade.segments[index].link
    received = [] if link is None else [link]
    if index == len(cascade.exits):
        return ModelSpec((*received, *inputs), spec.outputs)
    logits = replace(spec.outputs[0], name=cascade.exits[index].name)
    passed = cascade.segments[index + 1].link
    assert passed is not None  # the manifest was checked
    confidence = TensorSpec(CONFIDENCE, "float32", (None,))
    return ModelSpec((*received, *inputs), (logits, confidence, passed))
