"""Load corrupted bundles in processes of their own, watched: what they open, write, and need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MEMORY = 6 << 30  # bytes of addresses: more than threads and libraries take, less than a claim
SECONDS = 300


@dataclass(frozen=True)
class Attempt:
    """One call of ``load``: ``outcome`` is refused, loaded, escaped (another error) or crashed."""

    number: int
    trusting: bool
    outcome: str
    message: str


@dataclass
class Loads:
    """All attempts, and what was seen of the processes.

    ``writes`` are files that were opened for writing, removed or renamed while a bundle was loaded,
    ``strange_reads`` those opened that are neither of the bundle nor of Python and its packages.
    """

    attempts: list[Attempt] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    strange_reads: list[str] = field(default_factory=list)
    grown_mb: float = 0.0


def load_all(room: Path, public_key: Path, cases: list[Path]) -> Loads:
    """Load every case with and without trust; a process that dies is replaced by another."""
    todo = [(number, trusting) for number in range(len(cases)) for trusting in (True, False)]
    found = Loads()
    while todo:
        work = {
            "public_key": str(public_key),
            "room": str(room),
            "todo": [(number, trusting, str(cases[number])) for number, trusting in todo],
        }
        done = _worker(room, json.dumps(work))
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        for line in (line for line in lines if line["event"] == "attempt"):
            found.attempts.append(Attempt(*line["result"]))
        found.writes += [what for line in lines for what in line.get("writes", ())]
        found.strange_reads += [what for line in lines for what in line.get("reads", ())]
        found.grown_mb = max([found.grown_mb, *(line.get("grown_mb", 0) for line in lines)])
        finished = sum(line["event"] == "attempt" for line in lines)
        if finished < len(todo):
            how = f"the process ended with {done.returncode}: {done.stderr[-300:]}"
            found.attempts.append(Attempt(*todo[finished], "crashed", how))
            finished += 1
        todo = todo[finished:]
    return found


def _worker(room: Path, work: str) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), str(ROOT / "tests")]
    hidden = ("EDGEKD_TRUST", "EDGEKD_REQUIRE_SIGNATURE")
    env = {key: value for key, value in os.environ.items() if key not in hidden}
    env |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {name: str(room / "home") for name in ("HOME", "TMPDIR")}
    return subprocess.run(
        [sys.executable, "-m", "corrupted_loads"],
        input=work,
        capture_output=True,
        text=True,
        cwd=room / "home",
        env=env,
        check=False,
        timeout=SECONDS,
    )


def _work() -> None:
    import resource

    from edgekd.errors import BundleError
    from edgekd.runtime import load

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    work = json.load(sys.stdin)
    key, watch = Path(work["public_key"]).read_bytes(), _Watch(work["room"])
    sound = sorted((Path(work["room"]) / "sound").iterdir())
    # One of them has an engine, of noise and for a board: its ONNX model runs instead.
    for bundle in sound:  # both runtimes' lazy imports happen now
        load(bundle, threads=1, trust=key, fallback="onnx").close()
    sys.addaudithook(watch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, trusting, folder in work["todo"]:
        watch.bundle = folder
        try:
            load(folder, threads=1, trust=key if trusting else None, fallback="onnx").close()
            outcome, message = "loaded", ""
        except BundleError as error:
            outcome, message = "refused", str(error)
        except BaseException as error:
            outcome, message = "escaped", f"{type(error).__name__}: {error}"
        watch.bundle = ""
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        line: dict[str, Any] = {
            "event": "attempt",
            "result": (number, trusting, outcome, message),
            "grown_mb": grown,
            "writes": watch.writes,
            "reads": watch.reads,
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        watch.writes, watch.reads = [], []


class _Watch:
    """An audit hook (PEP 578); nothing is counted outside of a call of ``load``."""

    def __init__(self, room: str) -> None:
        self.bundle = ""
        self.writes: list[str] = []
        self.reads: list[str] = []
        self._room = room

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.bundle:
            return
        if event == "open":
            path, _, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
                self.writes.append(f"{self.bundle}: opened {path}")
            real = os.path.realpath(os.fspath(path)) if isinstance(path, (str, os.PathLike)) else ""
            if real.startswith(self._room) and not real.startswith(self.bundle + os.sep):
                self.reads.append(f"{self.bundle}: opened {path}")
        elif event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.link",
                       "os.symlink", "os.chmod", "shutil.rmtree", "subprocess.Popen", "os.system",
                       "socket.connect", "os.exec", "os.posix_spawn", "os.fork"):  # fmt: skip
            self.writes.append(f"{self.bundle}: {event} {arguments}")


if __name__ == "__main__":
    _work()
