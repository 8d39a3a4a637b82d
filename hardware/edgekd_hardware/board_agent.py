"""The process that edgekd keeps on a board: it takes files and jobs, and leaves nothing behind.

Its source text is sent over SSH to the board's Python (``edgekd_hardware.ssh``), so it needs the
standard library only, and Python 3.8. Requests come on stdin, a line of JSON each; answers go to
stdout the same way, the first one behind ``GREETING``:

- ``{"do": "put", "name": NAME, "size": BYTES}`` and so many bytes behind the line: writes a file
  into the agent's folder. Names are edgekd's own, never the user's.
- ``{"do": "get", "name": NAME, "limit": BYTES}`` -> ``{"data": BASE64}`` as often as it takes, then
  ``{"size": BYTES, "sha256": HEX}``: reads a file of the agent's folder that a process wrote there.
- ``{"do": "modules", "names": [...]}`` -> ``{"missing": [...]}``: which cannot be imported here.
- ``{"do": "run", "module": NAME, "job": {...}, "timeout_s": SECONDS}`` -> ``{"code", "stdout",
  "stderr", "samples"}``: runs ``python -m NAME`` in a fresh process. ``samples`` is the board's
  state after half a second and then every two seconds.

What goes wrong answers ``{"error": "one line"}``. The agent ends when stdin does: when edgekd is
done, was interrupted or killed, or the connection was lost. It then ends what runs and removes its
folder, and exits with 0, or with 4 if something would not go.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

GREETING = "edgekd board agent 1"
LEFTOVERS = 4
ARCHIVE = "runner.zip"
_PIECE = 3 << 18  # bytes of a file in one answer; a multiple of 3 needs no padding
_FIRST_SAMPLE_S = 0.5
_SAMPLE_S = 2.0


def main() -> int:
    """Serve until stdin ends; return the exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    folder = tempfile.mkdtemp(prefix="edgekd-")
    agent = Agent(folder)
    try:
        _answer(
            {"folder": folder, "python": sys.executable, "free": shutil.disk_usage(folder).free}
        )
        agent.serve()
    except (BrokenPipeError, EOFError):
        pass  # edgekd went away
    finally:
        agent.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return LEFTOVERS if os.path.exists(folder) else 0  # noqa: PTH110 - one import less to send


class Agent:
    """What is under way in one folder: at most one process at a time."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = False
        self._starting = threading.Lock()

    def serve(self) -> None:
        """Answer requests until stdin ends."""
        while True:
            line = sys.stdin.buffer.readline()
            if not line.endswith(b"\n"):
                return
            request = json.loads(line)
            what = request.pop("do")
            if what == "run":
                # This thread stays at stdin: its end is how an interruption shows.
                threading.Thread(target=self._respond, args=(what, request), daemon=True).start()
            else:
                self._respond(what, request)

    def stop(self) -> None:
        """End the process that runs, with whatever it started."""
        with self._starting:  # what is just being started is then known, and nothing starts later
            self._ending = True
            process = self._process
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _respond(self, what: str, request: Mapping[str, Any]) -> None:
        answer: dict[str, Any]
        try:
            if what == "put":
                answer = self._put(**request)
            elif what == "get":
                answer = self._get(**request)
            elif what == "run":
                answer = self._run(**request)
            else:
                answer = {"missing": [n for n in request["names"] if not find_spec(n)]}
        except OSError as error:
            answer = {"error": f"{self.folder}: {error.strerror or error}"}
        _answer(answer)

    def _put(self, name: str, size: int) -> dict[str, Any]:
        failure: OSError | None = None
        left = size
        try:
            with open(os.path.join(self.folder, name), "wb") as file:  # noqa: PTH118, PTH123
                while left:
                    chunk = sys.stdin.buffer.read(min(left, 1 << 20))
                    if not chunk:
                        raise EOFError
                    left -= len(chunk)
                    file.write(chunk)
        except OSError as error:
            failure = error
        while left and failure:  # the next request starts behind the file
            left -= len(sys.stdin.buffer.read(min(left, 1 << 20)) or b"." * left)
        if failure:
            raise failure
        if name == ARCHIVE:
            sys.path.insert(0, os.path.join(self.folder, name))  # noqa: PTH118
        return {}

    def _get(self, name: str, limit: int) -> dict[str, Any]:
        """Send a file in pieces, and at the end what the pieces have to come to."""
        if os.path.basename(name) != name:  # noqa: PTH119 - one import less to send
            raise OSError(f"{name} is not a file of this folder")
        path = os.path.join(self.folder, name)  # noqa: PTH118
        digest, sent = hashlib.sha256(), 0
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:  # noqa: PTH123
            if os.fstat(file.fileno()).st_size > limit:
                raise OSError(f"{name} is larger than the {limit / 1e6:.0f} MB that it may be")
            for piece in iter(lambda: file.read(_PIECE), b""):
                digest.update(piece)
                sent += len(piece)
                _answer({"data": base64.b64encode(piece).decode()})
        return {"size": sent, "sha256": digest.hexdigest()}

    def _run(self, module: str, job: Any, timeout_s: float) -> dict[str, Any]:
        paths = [os.path.join(self.folder, ARCHIVE), os.environ.get("PYTHONPATH", "")]  # noqa: PTH118
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONUTF8": "1",
            "TMPDIR": self.folder,  # what libraries leave there goes with it: ONNX Runtime's .ses
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with self._starting:
            if self._ending:
                raise OSError("the connection has ended")
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self.folder,  # "python -m" looks here first: not into the user's home
                env=environment,
                start_new_session=True,
            )
        over = threading.Event()
        samples: list[dict[str, Any]] = []
        watch = threading.Thread(target=_watch, args=(over, samples), daemon=True)
        watch.start()
        try:
            out, err = process.communicate(json.dumps(job).encode(), timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return {"timeout": True}
        finally:
            over.set()
            watch.join()
            self._process = None
        return {
            "code": process.returncode,
            "stdout": out.decode("utf-8", "replace"),
            "stderr": err.decode("utf-8", "replace"),
            "samples": samples,
        }


def _watch(over: threading.Event, samples: list[dict[str, Any]]) -> None:
    """Take a sample of the board's state now and then, from /sys: a few milliseconds each."""
    from edgekd_hardware.board_state import read_sample

    wait_s = _FIRST_SAMPLE_S
    while not over.wait(wait_s):
        samples.append(read_sample())
        wait_s = _SAMPLE_S


def _answer(data: Mapping[str, Any]) -> None:
    sys.stdout.buffer.write(GREETING.encode() + b" " + json.dumps(data).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
