"""What a prune stage has chosen so far, on disk, so that a killed run does not choose again.

A choice depends on measured times: made a second time it may be another one, which the training
that was interrupted does not fit.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgekd.cache import replace_file
from edgekd.errors import ModelError, StageError
from edgekd.graph.program import to_module, to_program
from edgekd.graph.taps import Tap
from edgekd.model.load import open_model
from edgekd.processes.group import by_first
from edgekd.progress import Progress, Silent
from edgekd.prune.surgery import renamed
from edgekd.stages.prune_search import follow
from edgekd.stages.prune_step import Narrowed
from edgekd.state import CompressionState


@dataclass(frozen=True)
class Position:
    """Where a stage is: step ``count`` (from 1) has its smaller program, which is not trained yet.

    ``gain`` is the whole stage's, ``finished`` are the records of the steps before.
    """

    count: int
    gain: float
    narrowed: Narrowed
    finished: list[dict[str, Any]]


def store(state: CompressionState, position: Position, progress: Progress) -> Position:
    """Write a position to the step's partial folder and return it as it is read from there.

    So the training behind it starts from the same program, interrupted or not. Without a cache
    nothing is written, and a disk that is full costs the files, not the stage.
    """
    if state.cache is None or state.key is None:
        return position
    narrowed = position.narrowed
    content = io.BytesIO()
    torch.export.save(to_program(narrowed.module, state.example), content)
    program, facts = _paths(state, position.count)
    try:
        replace_file(program, content.getvalue())
        module = _open(program)
        names = renamed(narrowed.module, module)
        narrowed = Narrowed(module, follow(narrowed.taps, names, {}), narrowed.record)
        plain = {
            "gain": position.gain,
            "taps": [_plain_tap(tap) for tap in narrowed.taps],
            "record": narrowed.record,
            "finished": position.finished,
        }
        digest = _digest(content.getvalue(), plain)
        replace_file(facts, json.dumps({"sha256": digest, **plain}).encode())
    except OSError as error:
        progress.note(f"prune: step {position.count} could not be stored ({error.strerror})")
        return position
    return Position(position.count, position.gain, narrowed, position.finished)


def chosen_by_first(
    state: CompressionState, count: int, choose: Callable[[], Position]
) -> Position:
    """Return what ``choose`` gives and stores, which of several processes only the first one calls.

    The choice depends on measured times. Raises StageError where the others cannot read it.
    """
    chosen: list[Position] = []
    by_first(lambda: chosen.append(choose()))
    position = chosen[0] if chosen else take_up(state, count, Silent())
    if position is None or position.count != count:
        raise StageError(
            "prune: the first process's choice is not on this machine; give --cache a folder that "
            "all machines share and that is not full"
        )
    return position


def take_up(state: CompressionState, steps: int, progress: Progress) -> Position | None:
    """Return the last position that an earlier run has stored, or None.

    A damaged file is left alone, with a note.
    """
    if state.cache is None or state.key is None:
        return None
    for count in range(steps, 0, -1):
        program, facts = _paths(state, count)
        if not facts.is_file():
            continue
        try:
            found = json.loads(facts.read_text("utf-8"))
            digest = found.pop("sha256")
            if _digest(program.read_bytes(), found) != digest:
                raise ValueError
            taps = [_tap(plain) for plain in found["taps"]]
            narrowed = Narrowed(_open(program), taps, found["record"])
        except (OSError, ValueError, KeyError, AttributeError, TypeError, ModelError):
            progress.note(f"prune: what an earlier run chose in step {count} is damaged; unused")
            continue
        progress.note(f"prune: goes on behind the choice of step {count} of an earlier run")
        return Position(count, found["gain"], narrowed, found["finished"])
    return None


def _paths(state: CompressionState, count: int) -> tuple[Path, Path]:
    assert state.cache is not None and state.key is not None
    folder = state.cache.partial(state.key)
    return folder / f"prune-{count}.pt2", folder / f"prune-{count}.json"


def _open(path: Path) -> torch.fx.GraphModule:
    program = open_model(path).program
    assert program is not None
    return to_module(program)


def _digest(program: bytes, facts: dict[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(program + text.encode()).hexdigest()


def _plain_tap(tap: Tap) -> dict[str, Any]:
    kept = [None if places is None else places.tolist() for places in tap.kept]
    return {"student": tap.student, "teacher": tap.teacher, "kept": kept}


def _tap(plain: dict[str, Any]) -> Tap:
    kept = (None if p is None else torch.tensor(p, dtype=torch.int64) for p in plain["kept"])
    return Tap(plain["student"], plain["teacher"], tuple(kept))
