"""One connection to a board, through the system's own OpenSSH client.

``ssh`` reads the user's configuration, keys, agent and known hosts as it always does; it never asks
anything (BatchMode), so an unknown or changed host key is an error. One remote command is run, made
of text that is fixed or checked here: file names and everything else of the user travel as data on
its stdin.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import queue
import re
import shutil
import subprocess
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from edgekd.errors import MeasurementError
from edgekd_hardware import board_agent
from edgekd_hardware.board_agent import GREETING, LEFTOVERS

_CONNECT_S = 10
_GREETING_S = 60.0
_CLOSING_S = 20.0
_OPTIONS = (
    "BatchMode=yes",
    f"ConnectTimeout={_CONNECT_S}",
    "ServerAliveInterval=15",  # a dead connection ends after a minute
    "ServerAliveCountMax=4",
    "ControlMaster=no",  # use a shared connection that is there, but leave none behind
    "ClearAllForwardings=yes",
    "RemoteCommand=none",
    "LogLevel=ERROR",  # not QUIET: what went wrong is read from what it says
)
_ADDRESS = re.compile(
    r"ssh://"
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?"
    r"(?:\[(?P<literal>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*))"
    r"(?::(?P<port>[0-9]{1,5}))?/?"
)
_PYTHON = re.compile(r"[A-Za-z0-9_./~][A-Za-z0-9_./+-]*")
# Runs the agent's source, which comes first on stdin. Single quotes around it hold in every shell
# (sh, bash, zsh, fish, csh), and it says "too old" in any Python's syntax.
_BOOT = (
    "import sys;"
    "sys.version_info<(3,8) and "
    'sys.exit("edgekd needs a newer Python than "+sys.version.split()[0]);'
    "sys.path=[p for p in sys.path if p];"  # not the folder that the shell starts in
    'exec(compile(sys.stdin.buffer.read({size}),"board_agent.py","exec"))'
)
# What ssh writes when it gives up -> what that means and what to do.
_SSH_SAYS = {
    "IDENTIFICATION HAS CHANGED": "its host key is not the one that ssh knows: find out why before "
    "you connect; if the board was set up anew, remove the old key with ssh-keygen -R",
    "Host key verification failed": "its host key is not known yet: connect once with ssh, and "
    "compare the key with the board's",
    "Permission denied": "it did not let you in: set up a key with ssh-copy-id, and check the user",
}


@dataclass(frozen=True)
class Address:
    """Whom ``ssh`` is to call; None leaves it to ssh's configuration."""

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{user}{host}" + (f":{self.port}" if self.port else "")


def parse_address(text: str) -> Address:
    """Read ``ssh://[user@]host[:port]``; host is a name, an alias of ssh's, an address or [IPv6].

    Raises MeasurementError for everything else, passwords and leading dashes among it.
    """
    found = _ADDRESS.fullmatch(text)
    port = int(found["port"]) if found and found["port"] else None
    if found is None or (port is not None and not 1 <= port <= 65535):
        raise MeasurementError(
            f"{text!r} is not a device: write ssh://user@host or ssh://user@host:port "
            "(a key signs in, passwords are not taken)"
        )
    return Address(found["literal"] or found["host"], found["user"], port)


class Connection:
    """A board's agent and the ssh process that leads to it; a context manager.

    ``python`` is the board's interpreter, ``config`` replaces the user's ssh configuration.
    Leaving the context ends what runs on the board and removes what was copied; so does the death
    of this process. ``left`` then tells what could not be removed, None when all is clean.
    """

    def __init__(self, address: Address, python: str = "python3", config: Path | None = None):
        if not _PYTHON.fullmatch(python):
            raise MeasurementError(f"{python!r} is not the name or path of a Python interpreter")
        self.address, self.python = address, python
        self.left: str | None = None
        self.free_bytes = 0  # in the board's folder for temporary files, when it answered
        self._config = config
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._messages: deque[str] = deque(maxlen=50)
        self._readers: list[threading.Thread] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ""

    def __enter__(self) -> Connection:
        """Connect and start the agent; raises MeasurementError with the reason in one line."""
        ssh = shutil.which("ssh")
        if ssh is None:
            raise MeasurementError("there is no ssh here: install OpenSSH's client")
        source = Path(board_agent.__file__).read_bytes()
        command = f"{self.python} -c '{_BOOT.format(size=len(source))}'"
        self._process = subprocess.Popen(
            [ssh, *self._arguments(), "--", self.address.host, command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for edgekd, which then lets the agent clean up
        )
        for work in (self._read_answers, self._read_messages):
            self._readers.append(threading.Thread(target=work, daemon=True))
            self._readers[-1].start()
        try:
            self._send(source)
            hello = self._receive(_GREETING_S)
            self._folder = str(hello["folder"])
            self.free_bytes = int(hello["free"])
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the agent end and clean up; wait until it has."""
        self._close()

    def ask(self, do: str, within_s: float = 600.0, /, **request: Any) -> dict[str, Any]:
        """Return the agent's answer to a request; raises MeasurementError when it has none."""
        self._send(json.dumps({"do": do, **request}).encode() + b"\n")
        return self._receive(within_s)

    def put(self, name: str, content: bytes) -> str:
        """Write a file into the agent's folder and return its path there.

        Raises MeasurementError when it cannot be written, as on a full disk.
        """
        header = json.dumps({"do": "put", "name": name, "size": len(content)}).encode() + b"\n"
        self._send(header, content)
        self._receive(600.0)
        return self.path(name)

    def path(self, name: str) -> str:
        """Return the path of a file of the agent's folder."""
        return f"{self._folder}/{name}"

    def get(self, name: str, limit: int) -> bytes:
        """Return what a process wrote to the file ``name`` of the agent's folder.

        Raises MeasurementError where there is no such file, it is longer than ``limit`` bytes, or
        what arrived is not what was sent.
        """
        self._send(json.dumps({"do": "get", "name": name, "limit": limit}).encode() + b"\n")
        digest, parts, size = hashlib.sha256(), [], 0
        while "data" in (answer := self._receive(600.0)):
            parts.append(_decoded(answer["data"]))
            size += len(parts[-1])
            digest.update(parts[-1])
            if size > limit:
                raise MeasurementError(f"{self.address} sends more than it may of {name}")
        if (answer.get("size"), answer.get("sha256")) != (size, digest.hexdigest()):
            raise MeasurementError(f"{self.address}: {name} came damaged; try again")
        return b"".join(parts)

    def _arguments(self) -> list[str]:
        """Return ssh's options; what follows them stands behind ``--``."""
        found = ["-T", *(word for option in _OPTIONS for word in ("-o", option))]
        found += ["-F", str(self._config)] if self._config else []
        found += ["-l", self.address.user] if self.address.user else []
        found += ["-p", str(self.address.port)] if self.address.port else []
        return found

    def _send(self, *parts: bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            for part in parts:
                self._process.stdin.write(part)
            self._process.stdin.flush()
        except OSError as error:  # ssh has gone; why, it said itself
            raise self._lost() from error

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        try:
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            raise MeasurementError(
                f"{self.address} did not answer within {timeout_s:g} s; is it still running?"
            ) from None
        if answer is None:
            raise self._lost()
        if "error" in answer:
            raise MeasurementError(f"{self.address}: {answer['error']}{_advice(answer['error'])}")
        return answer

    def _read_answers(self) -> None:
        """Take the agent's lines; what login scripts print before them is dropped."""
        assert self._process is not None and self._process.stdout is not None
        mark = GREETING.encode() + b" "
        with self._process.stdout as stream:
            for line in stream:
                if line.startswith(mark):
                    with contextlib.suppress(ValueError):  # a line that the end cut off
                        self._answers.put(json.loads(line[len(mark) :]))
        self._answers.put(None)

    def _read_messages(self) -> None:
        assert self._process is not None and self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                self._messages.append(line.decode("utf-8", "replace").strip())

    def _lost(self) -> MeasurementError:
        """Say why ssh ended."""
        assert self._process is not None
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            code = 255
        self._join()
        return MeasurementError(explain(self.address, self.python, code, list(self._messages)))

    def _join(self) -> None:
        """Wait for the last words; not long, since something ssh left behind may hold the pipes."""
        for reader in self._readers:
            reader.join(5)

    def _close(self) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        with contextlib.suppress(OSError):
            process.stdin.close()  # what the agent takes for the end
        try:
            code = process.wait(_CLOSING_S)
        except subprocess.TimeoutExpired:
            code = LEFTOVERS
        finally:
            process.kill()
            process.wait()
            self._join()
        if self._folder and code != 0:
            self.left = f"{self._folder} on {self.address}"


def _decoded(text: object) -> bytes:
    """Return the bytes of a piece; what is no base64 fails the check of the hash."""
    try:
        return base64.b64decode(str(text), validate=True)
    except ValueError:
        return b""


def explain(address: Address, python: str, code: int, messages: list[str]) -> str:
    """Return one line for how ssh or the board's Python ended: what is wrong, then what to do."""
    text = "\n".join(messages)
    last = next((line for line in reversed(messages) if line), f"ssh ended with code {code}")
    if "edgekd needs a newer Python" in text:
        have = text.rsplit("newer Python than ", 1)[1].split()[0]
        return (
            f"{address}: its {python} is Python {have}, edgekd needs 3.8 or later there: name a "
            "newer one with --device-python"
        )
    if code in (126, 127):
        return (
            f"{address}: there is no {python} that runs; install Python 3.8 or later there, or "
            "name it with --device-python"
        )
    if code != 255:
        return f"{address}: the connection ended: {last}"
    for words, meaning in _SSH_SAYS.items():
        if words in text:
            return f"{address}: {meaning}"
    return f"{address} cannot be reached: {last.removeprefix('ssh: ')}"


def _advice(problem: str) -> str:
    if "No space left" in problem or "quota" in problem:
        return ": free some space there"
    return ""
