"""Which addresses are taken, and that nothing else ever reaches ssh's command line."""

from __future__ import annotations

import pytest
from edgekd_hardware.ssh import Address, Connection, explain, parse_address
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import MeasurementError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://pi@10.0.0.7", Address("10.0.0.7", "pi")),
        ("ssh://board", Address("board")),
        ("ssh://nv.user@orin-nano.local:2222/", Address("orin-nano.local", "nv.user", 2222)),
        ("ssh://root@[fe80::1%eth0]:22", Address("fe80::1%eth0", "root", 22)),
        ("ssh://[::1]", Address("::1")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "board",
        "pi@board",
        "http://board",
        "ssh://",
        "ssh://-oProxyCommand=touch x",
        "ssh://-l@board",
        "ssh://pi:secret@board",
        "ssh://board:0",
        "ssh://board:65536",
        "ssh://board:ssh",
        "ssh://board;id",
        "ssh://$(id)@board",
        "ssh://a b",
        "ssh://::1",
        "ssh://board/path",
        "ssh://board\n",
    ],
)
def test_refuses_everything_else(text: str) -> None:
    with pytest.raises(MeasurementError, match="is not a device: write ssh://"):
        parse_address(text)


@given(st.text())
def test_what_is_taken_is_harmless(text: str) -> None:
    try:
        address = parse_address(f"ssh://{text}")
    except MeasurementError:
        return
    for part in (address.user or "u", address.host):
        assert not part.startswith("-") and part.isascii()
        assert not set(part) & set(" ;|&$`'\"\\<>()*?!#\n")


@pytest.mark.parametrize("python", ["", "-c", "python3;id", "a b", "$(id)", "'", "py\nthon"])
def test_refuses_odd_interpreters(python: str) -> None:
    with pytest.raises(MeasurementError, match="not the name or path of a Python"):
        Connection(Address("board"), python)


def test_a_version_that_can_live_anywhere() -> None:
    for python in ("python3.11", "/opt/venv-1/bin/python", "~/venv/bin/python3"):
        Connection(Address("board"), python)


@pytest.mark.parametrize(
    ("code", "messages", "words"),
    [
        (255, ["ssh: connect to host b port 22: No route to host"], "connect to host b port 22"),
        (255, ["kex_exchange_identification: Connection closed by remote host"], "be reached: kex"),
        (255, ["pi@b: Permission denied (publickey,password)."], "did not let you in"),
        (255, [], "cannot be reached: ssh ended with code 255"),
        (1, ["Traceback", "ImportError: no ctypes", ""], "ended: ImportError: no ctypes"),
    ],
)
def test_words_for_how_ssh_ended(code: int, messages: list[str], words: str) -> None:
    assert words in explain(Address("b"), "python3", code, messages)
