"""What comes back from a board: files of its agent's folder, checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from edgekd_hardware.board import Board
from edgekd_hardware.board_agent import _PIECE
from edgekd_hardware.ssh import Address, Connection

from edgekd.errors import MeasurementError

LIMIT = 4_000_000
# Runs the agent with one thing changed: argument 1 is what edgekd lets Python run, 2 and 3 are text
# of the agent's source and what to put in its place.
CHANGED = """import sys
code, old, new = sys.argv[1:4]
there = '),"board_agent.py"'
assert there in code
exec(code.replace(there, f').replace({old.encode()!r}, {new.encode()!r}),"board_agent.py"'))
"""


def connect(sshd: Any, interpreter: Any) -> Connection:
    return Connection(Address("board"), str(interpreter.path), sshd.config("files"))


@pytest.fixture
def connection(sshd: Any, interpreter: Any) -> Iterator[Connection]:
    with connect(sshd, interpreter) as opened:
        yield opened
    assert opened.left is None
    assert list(interpreter.temporary.iterdir()) == []


def test_what_was_written_there_comes_back(connection: Connection) -> None:
    for size in (0, 1, _PIECE - 1, _PIECE, _PIECE + 1, 3 * _PIECE + 7):
        content = bytes(i * 7 % 256 for i in range(256)) * (size // 256 + 1)
        path = connection.put("some file", content[:size])
        assert path == connection.path("some file")
        assert connection.get("some file", LIMIT) == content[:size]


def test_refuses_what_is_too_large_and_goes_on(connection: Connection) -> None:
    connection.put("large", bytes(1000))
    with pytest.raises(MeasurementError, match=r"ssh://board: .*large is larger than the 0 MB"):
        connection.get("large", 999)
    assert connection.get("large", 1000) == bytes(1000)


def test_only_files_of_its_own_folder(
    connection: Connection, interpreter: Any, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (folder,) = interpreter.temporary.iterdir()
    (folder / "link").symlink_to(secret)
    for name, words in (
        ("link", "Too many levels of symbolic links"),
        ("../../../secret", "is not a file of this folder"),
        (str(secret), "is not a file of this folder"),
        ("none", "No such file"),
    ):
        with pytest.raises(MeasurementError, match=words) as caught:
            connection.get(name, LIMIT)
        assert str(caught.value).startswith("ssh://board") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("digest.hexdigest()", "digest.hexdigest()[::-1]", "came damaged; try again"),
        ('"size": sent', '"size": sent + 1', "came damaged; try again"),
        (".b64encode(piece).decode()", ".b64encode(piece).decode()[4:]", "came damaged"),
        (".b64encode(piece).decode()", ".b64encode(piece).decode() + '*'", "came damaged"),
        ("> limit", "> limit + 10**9", "sends more than it may of file"),
    ],
)
def test_a_board_that_sends_something_else(
    sshd: Any, interpreter: Any, tmp_path: Path, old: str, new: str, words: str
) -> None:
    (tmp_path / "changed.py").write_text(CHANGED)
    (tmp_path / "old").write_text(old)
    (tmp_path / "new").write_text(new)
    texts = f"\"$(cat '{tmp_path}/old')\" \"$(cat '{tmp_path}/new')\""
    interpreter.write(command=f'exec "$PYTHON" \'{tmp_path}/changed.py\' "$2" {texts}')
    with connect(sshd, interpreter) as connection:
        connection.put("file", bytes(2000))
        with pytest.raises(MeasurementError, match=words):
            connection.get("file", 1999 if "limit" in old else LIMIT)
    assert list(interpreter.temporary.iterdir()) == []


def test_a_board_without_tensorrt_says_where_it_comes_from(connection: Connection) -> None:
    board = Board(connection)
    assert board.missing(["json", "no_such_module"]) == ["no_such_module"]
    if not board.missing(["tensorrt"]):
        pytest.skip("this machine has TensorRT")
    with pytest.raises(MeasurementError, match="no tensorrt: run there sudo apt install python3-l"):
        board.require(["tensorrt"])
    assert board.output("model.engine") == connection.path("model.engine")
    connection.put("model.engine", b"engine")
    assert board.fetch("model.engine") == b"engine"
