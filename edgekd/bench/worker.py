"""One fresh process of a duet: ``python -m edgekd.bench.worker``, a job as JSON on stdin.

The job is ``{"models": {name: {"path", "runtime", "precision"}}, "protocol": {...}, "process":
index, "same_inputs": bool, "inputs": path or null}``. A model may have ``"extra"``, a number of
small matrix products that each of its calls does besides, for slowing a copy down. The answer on
stdout is ``{"runtime": str, "samples_ns": {name: [int, ...]}, "cpu_ns": ..., "waits": ...,
"cores": [int, ...], "warm_up_ms": {name: float}}``: wall and CPU time of each call's thread and how
often it waited, see ``edgekd/bench/clock.py``. What goes wrong is one line on stderr and exit code
2, or 3 for models that cannot be compared.

This file and what it imports also run on boards (``edgekd_hardware.runner_archive``), and so on
Python 3.8.
"""

from __future__ import annotations

import gc
import json
import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from edgekd.bench.clock import CallTime, running_ns, time_call
from edgekd.bench.machine import keep_to_cores
from edgekd.bench.protocol import Protocol
from edgekd.errors import BundleError, MeasurementError, NoVerdictError
from edgekd.runtime import openvino
from edgekd.runtime.onnxruntime import OnnxRuntimeSession
from edgekd.runtime.tensors import one_line
from edgekd.spec import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from edgekd.runtime.opening import Session

    Feed = dict[str, npt.NDArray[Any]]  # aliases are evaluated, and boards have Python 3.8
    Call = Callable[[], object]

_STABLE = 0.02
_LONGEST_WARM_UP = 5  # times what was asked for, on a machine that never comes to rest


def main() -> int:
    """Read the job, run it, write the answer; return the exit code."""
    job = json.load(sys.stdin)
    try:
        protocol = Protocol.from_dict(job["protocol"])
        cores = keep_to_cores(protocol.threads, job["process"])
        answer = run(
            job["models"],
            protocol,
            job["process"],
            same_inputs=job["same_inputs"],
            inputs_file=job.get("inputs"),
        )
    except MeasurementError as error:
        sys.stderr.write(f"{error}\n")
        return 3 if isinstance(error, NoVerdictError) else 2
    sys.stdout.write(json.dumps({**answer, "cores": cores}))
    return 0


def run(
    models: Mapping[str, Mapping[str, Any]],
    protocol: Protocol,
    process: int,
    *,
    same_inputs: bool = True,
    inputs_file: str | None = None,
) -> dict[str, Any]:
    """Load ``models``, warm them up and time the rounds of one process.

    Raises MeasurementError when a model cannot be loaded or run, NoVerdictError when the models do
    not take the ``same_inputs`` where they should.
    """
    file = None if inputs_file is None else Path(inputs_file)
    ready = prepare(models, protocol, process, same_inputs=same_inputs, inputs_file=file)
    times = time_calls(ready.calls, protocol.rounds, ready.order, protocol.primers)
    return {
        **ready.facts,
        "samples_ns": {name: [call.wall_ns for call in rows] for name, rows in times.items()},
        "cpu_ns": {name: [call.cpu_ns for call in rows] for name, rows in times.items()},
        "waits": {name: [call.waits for call in rows] for name, rows in times.items()},
    }


@dataclass(frozen=True)
class Ready:
    """Models that are loaded and warm: their calls and inputs, and the order to time them in.

    ``facts`` are plain data for the answer.
    """

    calls: Mapping[str, Call]
    inputs: Mapping[str, Mapping[str, TensorSpec]]
    order: random.Random
    facts: Mapping[str, Any]


def prepare(
    models: Mapping[str, Mapping[str, Any]],
    protocol: Protocol,
    process: int,
    *,
    same_inputs: bool = True,
    inputs_file: Path | None = None,
) -> Ready:
    """Load ``models`` and warm them up; raises what ``run`` raises."""
    order = random.Random(f"{protocol.seed}-{process}")
    # The first to load and to be called gets other memory than the last: they take turns.
    turn = process % len(models)
    names = [*models][turn:] + [*models][:turn]
    opened = {name: _open(name, protocol.threads, models[name]) for name in names}
    sessions = {name: opened[name] for name in models}
    inputs = _all_inputs(sessions, protocol.batch, same_inputs)
    feeds = _feeds(inputs, protocol.seed, inputs_file)
    calls = {
        name: _call(session, feeds[name], models[name].get("extra", 0))
        for name, session in sessions.items()
    }
    warm_up_ms = {name: _warm_up(name, calls[name], protocol.warmup_ms) for name in names}
    runtimes = _versions({model["runtime"] for model in models.values()})
    facts = {"runtime": ", ".join(runtimes), "warm_up_ms": warm_up_ms}
    return Ready(calls, inputs, order, facts)


def time_rounds(
    calls: Mapping[str, Call], rounds: int, order: random.Random, primers: int = 0
) -> dict[str, list[int]]:
    """Return name -> nanoseconds of wall time of each round, see ``time_calls``."""
    times = time_calls(calls, rounds, order, primers)
    return {name: [call.wall_ns for call in rows] for name, rows in times.items()}


def time_calls(
    calls: Mapping[str, Call], rounds: int, order: random.Random, primers: int = 0
) -> dict[str, list[CallTime]]:
    """Call everything once a round in random order; return name -> the time of each round.

    ``primers`` untimed calls of the same model come right before each timed one.
    """
    samples: dict[str, list[CallTime]] = {name: [] for name in calls}
    schedule = [order.sample(sorted(calls), len(calls)) for _ in range(rounds)]
    gc.collect()
    gc.disable()
    try:
        for names in schedule:
            for name in names:
                call = calls[name]
                for _ in range(primers):
                    call()
                samples[name].append(time_call(call))
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


def _open(name: str, threads: int, model: Mapping[str, Any]) -> Session:
    if model["runtime"] == "onnxruntime":
        return OnnxRuntimeSession(open_session(name, model["path"], threads))
    try:
        content = Path(model["path"]).read_bytes()
        return openvino.open_openvino(content, model["precision"], threads)
    except BundleError as error:
        raise MeasurementError(f"model {name!r} cannot be loaded: {error}") from error


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


def _all_inputs(
    sessions: Mapping[str, Session], batch: int, same_inputs: bool
) -> dict[str, dict[str, TensorSpec]]:
    """Return each model's inputs with every axis known; they may have to be the same."""
    if same_inputs:
        return dict.fromkeys(sessions, _shared_inputs(sessions, batch))
    return {name: _inputs(name, session, batch) for name, session in sessions.items()}


def _feeds(
    inputs: Mapping[str, Mapping[str, TensorSpec]], seed: int, file: Path | None
) -> dict[str, Feed]:
    """Return each model's arrays; models of the same inputs share them.

    Copies would lie elsewhere in memory, and the one that lies better would make its model faster:
    by almost 2 % in OpenVINO, which reads them in place.
    """
    made: list[tuple[Mapping[str, TensorSpec], Feed]] = []
    feeds = {}
    for name, own in inputs.items():
        feed = next((feed for other, feed in made if other == own), None)
        if feed is None:
            feed = random_feed(own, seed) if file is None else _stored(file, own)
            made.append((own, feed))
        feeds[name] = feed
    return feeds


def _stored(path: Path, inputs: Mapping[str, TensorSpec]) -> Feed:
    """Return the inputs of a .npz file; MeasurementError if they are not what the models take."""
    with np.load(path, allow_pickle=False) as stored:
        feed = {name: stored[name] for name in stored.files}
    found = {name: TensorSpec(name, str(x.dtype), x.shape) for name, x in feed.items()}
    if found != inputs:
        given, taken = (", ".join(map(str, specs.values())) for specs in (found, inputs))
        raise MeasurementError(f"the inputs are {given}; the models take {taken}")
    return feed


def _call(session: Session, feed: Feed, extra: int = 0) -> Call:
    """Return the call that production makes: arrays in, arrays out, on either runtime.

    ``extra`` small matrix products are added to each call.
    """
    outputs = [tensor.name for tensor in session.outputs]
    if not extra:
        return lambda: session.run(outputs, feed)
    left, right = np.ones((8, 8), np.float32), np.ones((8, 8), np.float32)
    result = np.empty((8, 8), np.float32)

    def slowed() -> object:
        for _ in range(extra):
            np.dot(left, right, out=result)
        return session.run(outputs, feed)

    return slowed


def _warm_up(name: str, call: Call, milliseconds: float) -> float:
    """Call until the time is stable, and at least so long; return the milliseconds it took.

    Stable: the medians of two spans of calls that follow each other differ by less than 2 %. A
    span is at least a quarter of the time and three calls.
    """
    begin, last = perf_counter_ns(), 0.0
    while True:
        try:
            now = _median_of_span(call, milliseconds / 4)
        except Exception as error:  # ONNX Runtime's errors have no base class of their own
            raise MeasurementError(f"model {name!r} cannot run: {one_line(error)}") from error
        spent = (perf_counter_ns() - begin) / 1e6
        stable = abs(now - last) < _STABLE * now
        if (stable and spent >= milliseconds) or spent >= _LONGEST_WARM_UP * milliseconds:
            return spent
        last = now


def _median_of_span(call: Call, milliseconds: float) -> float:
    times: list[int] = []
    begin = perf_counter_ns()
    while len(times) < 3 or perf_counter_ns() - begin < milliseconds * 1e6:
        times.append(running_ns(time_call(call)))
    return float(np.median(times))


if __name__ == "__main__":
    sys.exit(main())
