"""Two processes that take turns with single calls, for models that cannot live in one."""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgekd.bench.protocol import Protocol
from edgekd.bench.runner import Variant, as_job, explain, worker_command, worker_environment
from edgekd.errors import MeasurementError, NoVerdictError


@dataclass
class _Player:
    python: str
    process: subprocess.Popen[str]
    errors: IO[str]

    def ask(self, line: str) -> Any:
        """Send one line and return the answer; raises MeasurementError if the process ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended, and says why on stderr
        answer = self.process.stdout.readline()
        if not answer:
            code = self.process.wait()
            self.errors.seek(0)
            raise MeasurementError(f"{self.python}: {explain(code, self.errors.read())}")
        return json.loads(answer)


def take_turns(
    pair: Mapping[str, Variant],
    pythons: Mapping[str, str],
    protocol: Protocol,
    number: int,
    inputs: Path | None,
) -> dict[str, Any]:
    """Return the answer of one process for each model, as that of one process for both.

    ``pythons`` names the interpreter of each; both take turns with single calls, in random order,
    each right after an untimed call of its own. Raises MeasurementError when a process fails, and
    NoVerdictError when the models take different inputs.
    """
    order = random.Random(f"{protocol.seed}-{number}")
    with ExitStack() as stack:
        players = {name: stack.enter_context(_start(pythons[name])) for name in pair}
        facts = {}
        for name, variant in pair.items():
            job = {
                "model": as_job({name: variant})[name],
                "protocol": protocol.to_dict(),
                "process": number,
                "inputs": None if inputs is None else str(inputs),
            }
            facts[name] = players[name].ask(json.dumps(job))
        _check_inputs(facts)
        times: dict[str, list[list[int]]] = {name: [] for name in pair}
        for _ in range(protocol.rounds):
            for name in order.sample(sorted(pair), len(pair)):
                times[name].append(players[name].ask("go"))
    return {
        "runtime": ", ".join(dict.fromkeys(fact["runtime"] for fact in facts.values())),
        "samples_ns": {name: [row[0] for row in rows] for name, rows in times.items()},
        "cpu_ns": {name: [row[1] for row in rows] for name, rows in times.items()},
        "waits": {name: [row[2] for row in rows] for name, rows in times.items()},
        "cores": next(iter(facts.values()))["cores"],
        "warm_up_ms": {name: fact["warm_up_ms"]["model"] for name, fact in facts.items()},
    }


def _check_inputs(facts: Mapping[str, Mapping[str, Any]]) -> None:
    (one, first), (other, second) = ((name, fact["inputs"]) for name, fact in facts.items())
    if first != second:
        raise NoVerdictError(
            f"the models take different inputs: {one} has {', '.join(first)}; {other} has "
            f"{', '.join(second)}"
        )


@contextmanager
def _start(python: str) -> Iterator[_Player]:
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        try:
            process = subprocess.Popen(
                worker_command("edgekd.bench.turn_worker", python),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
                env=worker_environment(),
            )
        except OSError as error:
            raise MeasurementError(f"{python} cannot be run: {error.strerror}") from error
        try:
            yield _Player(python, process, errors)
        finally:
            process.kill()
            process.communicate()
