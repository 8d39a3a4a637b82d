"""A board for the tests: a real sshd on the loopback interface, with keys of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Sshd:
    """A running server. Its ssh configuration calls it ``board``."""

    folder: Path
    port: int

    def config(self, name: str, **changed: str) -> Path:
        """Write a configuration for ssh; ``changed`` settings replace those that let it in."""
        settings = {
            "HostName": "127.0.0.1",
            "Port": str(self.port),
            "User": getpass.getuser(),
            "IdentityFile": str(self.folder / "user"),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": str(self.folder / "known_hosts"),
            "GlobalKnownHostsFile": "/dev/null",
            **changed,
        }
        path = self.folder / f"{name}.config"
        lines = [f"  {key} {value}" for key, value in settings.items()]
        path.write_text("\n".join(["Host board", *lines, ""]))
        return path


def make_key(path: Path) -> str:
    """Make a key pair without a passphrase and return the public one."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True, timeout=60)
    return path.with_suffix(".pub").read_text().strip()


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    missing = [name for name in ("ssh", "ssh-keygen") if shutil.which(name) is None]
    if _SSHD is None or missing:
        pytest.skip(f"needs OpenSSH: no {', no '.join(missing or ['sshd (openssh-server)'])} here")
    folder = tmp_path_factory.mktemp("sshd")
    host, user, noisy = (make_key(folder / name) for name in ("host", "user", "noisy"))
    make_key(folder / "stranger")
    # A login that prints before it runs what it is asked to, as many a .bashrc does.
    chatter = r'command="echo welcome; echo; eval \"$SSH_ORIGINAL_COMMAND\""'
    (folder / "authorized_keys").write_text(f"{user}\n{chatter} {noisy}\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host}\n")
    settings = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "PidFile": "none",
        "UsePAM": "no",
        "StrictModes": "no",  # the folder of a test belongs to whoever runs it
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
    }
    (folder / "sshd_config").write_text("".join(f"{k} {v}\n" for k, v in settings.items()))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where root's sshd gives up its rights
    log = folder / "log"
    with log.open("wb") as stream:
        command = [_SSHD, "-D", "-e", "-f", str(folder / "sshd_config")]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=stream)
    try:
        _wait_for(port, server, log)
        yield Sshd(folder, port)
    finally:
        server.terminate()
        server.wait(20)


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(200):
        if server.poll() is not None:
            pytest.fail(f"sshd does not start: {log.read_text()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"sshd does not listen: {log.read_text()}")


@dataclass(frozen=True)
class Interpreter:
    """The Python of a board, as a script that can change what it finds there.

    ``temporary`` is the board's folder for temporary files: empty before and after.
    """

    path: Path
    temporary: Path

    def write(self, setup: str = "", command: str = 'exec "$PYTHON" "$@"') -> str:
        """Let the interpreter run the shell's ``setup`` first, and return its path."""
        lines = ["#!/bin/sh", f"export TMPDIR='{self.temporary}'", f"PYTHON='{sys.executable}'"]
        self.path.write_text("\n".join([*lines, setup, command, ""]))
        self.path.chmod(0o755)
        return str(self.path)


@pytest.fixture
def interpreter(tmp_path: Path) -> Interpreter:
    folder = tmp_path / "board"
    (folder / "tmp").mkdir(parents=True)
    found = Interpreter(folder / "python", folder / "tmp")
    found.write()
    return found
