"""One fresh process of a duet: ``python -m edgekd.bench.worker``, a job as JSON on stdin.

The job is ``{"models": {name: {"path", "runtime", "precision"}}, "protocol": {...}, "process":
index, "same_inputs": bool}``; the answer on stdout is ``{"runtime": str, "samples_ns": {name:
[int, ...]}}``. What goes wrong is one line on stderr and exit code 2; 3 for models that cannot be
compared.
"""

from __future__ import annotations

import gc
import json
import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgekd.bench.protocol import Protocol
from edgekd.errors import BundleError, MeasurementError, NoVerdictError
from edgekd.runtime import openvino
from edgekd.runtime.onnxruntime import OnnxRuntimeSession
from edgekd.runtime.tensors import one_line
from edgekd.spec import TensorSpec

if TYPE_CHECKING:
    from edgekd.runtime.opening import Session

Feed = dict[str, npt.NDArray[Any]]
Call = Callable[[], object]


def main() -> int:
    """Read the job, run it, write the answer; return the exit code."""
    job = json.load(sys.stdin)
    try:
        protocol = Protocol.from_dict(job["protocol"])
        answer = run(job["models"], protocol, job["process"], same_inputs=job["same_inputs"])
    except MeasurementError as error:
        sys.stderr.write(f"{error}\n")
        return 3 if isinstance(error, NoVerdictError) else 2
    sys.stdout.write(json.dumps(answer))
    return 0


def run(
    models: Mapping[str, Mapping[str, Any]],
    protocol: Protocol,
    process: int,
    *,
    same_inputs: bool = True,
) -> dict[str, Any]:
    """Load ``models``, warm them up and time the rounds of one process.

    Raises MeasurementError when a model cannot be loaded or run, NoVerdictError when the models do
    not take the ``same_inputs`` where they should.
    """
    sessions = {name: _open(name, protocol.threads, **model) for name, model in models.items()}
    if same_inputs:
        shared = _shared_inputs(sessions, protocol.batch)
        inputs = dict.fromkeys(sessions, shared)
    else:
        inputs = {
            name: _inputs(name, session, protocol.batch) for name, session in sessions.items()
        }
    feeds = {name: random_feed(found, protocol.seed) for name, found in inputs.items()}
    calls = {name: _call(session, feeds[name]) for name, session in sessions.items()}
    for name, call in calls.items():
        _warm_up(name, call, protocol.warmup_ms)
    order = random.Random(f"{protocol.seed}-{process}")
    return {
        "runtime": ", ".join(_versions({model["runtime"] for model in models.values()})),
        "samples_ns": time_rounds(calls, protocol.rounds, order, protocol.primers),
    }


def time_rounds(
    calls: Mapping[str, Call], rounds: int, order: random.Random, primers: int = 0
) -> dict[str, list[int]]:
    """Call everything once a round in random order; return name -> nanoseconds of each round.

    ``primers`` untimed calls of the same model come right before each timed one.
    """
    samples: dict[str, list[int]] = {name: [] for name in calls}
    schedule = [order.sample(sorted(calls), len(calls)) for _ in range(rounds)]
    gc.collect()
    gc.disable()
    try:
        for names in schedule:
            for name in names:
                call = calls[name]
                for _ in range(primers):
                    call()
                start = perf_counter_ns()
                result = call()
                stop = perf_counter_ns()
                del result  # freed outside the timing
                samples[name].append(stop - start)
    finally:
        gc.enable()
    return samples


def random_feed(inputs: Mapping[str, TensorSpec], seed: int) -> Feed:
    """Return input name -> array: normal floats, or integers 0 and 1.

    0 and 1 are valid as token ids, token types and masks alike. Raises MeasurementError for a
    dtype that is not a number.
    """
    rng = np.random.default_rng(seed)
    feed = {}
    for name, tensor in sorted(inputs.items()):
        shape = [size or 0 for size in tensor.shape]  # every axis is known here
        if tensor.dtype.startswith("float"):
            values: npt.NDArray[Any] = rng.standard_normal(shape)
        elif tensor.dtype.startswith(("int", "uint", "bool")):
            values = rng.integers(0, 2, shape)
        else:
            raise MeasurementError(f"input {name!r} is {tensor.dtype}, which cannot be made up")
        feed[name] = values.astype(tensor.dtype)
    return feed


def _open(name: str, threads: int, path: str, runtime: str, precision: str | None) -> Session:
    if runtime == "onnxruntime":
        return _open_onnxruntime(name, path, threads)
    try:
        return openvino.open_openvino(Path(path).read_bytes(), precision, threads)
    except BundleError as error:
        raise MeasurementError(f"model {name!r} cannot be loaded: {error}") from error


def _open_onnxruntime(name: str, path: str, threads: int) -> Session:
    return OnnxRuntimeSession(open_session(name, path, threads))


def open_session(
    name: str, path: str, threads: int, options: ort.SessionOptions | None = None
) -> ort.InferenceSession:
    """Open an ONNX file as all measuring does; raises MeasurementError if that fails."""
    options = options or measuring_options(threads)
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        raise MeasurementError(f"model {name!r} cannot be loaded: {one_line(error)}") from error


def measuring_options(threads: int) -> ort.SessionOptions:
    """Return the options of all measuring."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Threads that spin after a call would take the core from the other model's next call.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _versions(runtimes: set[str]) -> list[str]:
    """Name the runtimes in use with their versions, ONNX Runtime first."""
    found = {"onnxruntime": lambda: ort.__version__, "openvino": openvino.version}
    return [f"{name} {version()} CPU" for name, version in found.items() if name in runtimes]


def _shared_inputs(sessions: Mapping[str, Session], batch: int) -> dict[str, TensorSpec]:
    """Return the inputs, with every axis known, that all models take alike."""
    first, *others = sessions
    inputs = _inputs(first, sessions[first], batch)
    for name in others:
        found = _inputs(name, sessions[name], batch)
        if found != inputs:
            one, other = (", ".join(map(str, specs.values())) for specs in (inputs, found))
            raise NoVerdictError(
                f"the models take different inputs: {first} has {one}; {name} has {other}"
            )
    return inputs


def _inputs(name: str, session: Session, batch: int) -> dict[str, TensorSpec]:
    return {tensor.name: _with_batch(name, tensor, batch) for tensor in session.inputs}


def _with_batch(name: str, tensor: TensorSpec, batch: int) -> TensorSpec:
    """Fix the batch axis, which is the first one; raise MeasurementError for other open axes."""
    first, *rest = tensor.shape or (batch,)
    if None in rest:
        raise MeasurementError(f"model {name!r}: an axis besides the batch is open in {tensor}")
    if first not in (None, batch):
        raise MeasurementError(f"model {name!r} takes {tensor}, not batches of {batch}")
    return TensorSpec(tensor.name, tensor.dtype, (batch, *rest) if tensor.shape else ())


def _call(session: Session, feed: Feed) -> Call:
    """Return the call that production makes: arrays in, arrays out, on either runtime."""
    outputs = [tensor.name for tensor in session.outputs]
    return lambda: session.run(outputs, feed)


def _warm_up(name: str, call: Call, milliseconds: float) -> None:
    """Call for at least so long and at least three times."""
    start, calls = perf_counter_ns(), 0
    while calls < 3 or perf_counter_ns() - start < milliseconds * 1e6:
        try:
            call()
        except Exception as error:  # ONNX Runtime's errors have no base class of their own
            raise MeasurementError(f"model {name!r} cannot run: {one_line(error)}") from error
        calls += 1


if __name__ == "__main__":
    sys.exit(main())
