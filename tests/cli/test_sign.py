"""keygen, sign and verify through the real command line, and what the environment asks for."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from edgekd_cli.app import app
from typer.testing import CliRunner

from edgekd.errors import TrustError
from edgekd.signing import make_key


def test_keygen_sign_verify(run_cli: Any, bundle: Path, tmp_path: Path) -> None:
    key, public = tmp_path / "key", tmp_path / "key.pub"
    made = run_cli("keygen", "--out", str(key), "--json")
    key_id = json.loads(made.stdout)["key_id"]
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and len(key_id) == 64
    again = run_cli("keygen", "--out", str(key))
    assert again.returncode == 2 and "never overwritten" in again.stderr

    unsigned = CliRunner().invoke(app, ["verify", str(bundle)])
    assert unsigned.exit_code == 0 and "none: nothing proves who made" in unsigned.stdout
    refused = run_cli("verify", str(bundle), "--trust", str(public))
    assert refused.returncode == 2 and "not signed" in refused.stderr

    signed = run_cli("sign", str(bundle), "--key", str(key))
    assert signed.returncode == 0 and key_id in signed.stdout and signed.stderr == ""
    unchecked = CliRunner().invoke(app, ["verify", str(bundle)])
    assert unchecked.exit_code == 0 and "NOT CHECKED" in unchecked.stdout
    assert key_id in unchecked.stdout
    (bundle / "notes.txt").write_text("mine")
    trust = ["--trust", str(public), "--json"]
    checked = CliRunner().invoke(app, ["verify", str(bundle), *trust])
    found = json.loads(checked.stdout)
    assert (found["key_id"], found["is_trusted"]) == (key_id, True)
    assert found["uncovered"] == ["notes.txt"]

    (bundle / "model.onnx").write_bytes(b"")
    damaged = run_cli("verify", str(bundle), "--trust", str(public))
    assert damaged.returncode == 2 and damaged.stdout == ""
    assert damaged.stderr.count("\n") == 1 and "model.onnx is truncated" in damaged.stderr


def test_passphrases_come_from_the_environment_where_there_is_no_terminal(
    run_cli: Any, bundle: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    secret = {"EDGEKD_KEY_PASSPHRASE": "open sesame"}
    missing = run_cli("keygen", "--out", str(key), "--passphrase")
    assert missing.returncode == 2 and "set EDGEKD_KEY_PASSPHRASE" in missing.stderr
    assert run_cli("keygen", "--out", str(key), "--passphrase", **secret).returncode == 0
    assert b"ENCRYPTED" in key.read_bytes()
    assert run_cli("sign", str(bundle), "--key", str(key)).returncode == 2
    key.chmod(0o644)
    done = run_cli("sign", str(bundle), "--key", str(key), **secret)
    assert done.returncode == 0 and f"chmod 600 {key}" in done.stderr


def test_every_reader_asks_where_the_environment_does(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    _, public = make_key(tmp_path / "key")
    commands = [
        ["inspect", str(bundle)],
        ["verify", str(bundle)],
        ["eval", str(bundle), "--data", str(data)],
        ["bench", str(bundle), "--processes", "1"],
        ["gate", "--baseline", str(bundle), "--candidate", str(bundle)],
        ["predict", str(bundle)],
        ["build", str(bundle)],
        ["deploy", "triton", str(bundle), str(tmp_path / "triton")],
        ["deploy", "cpp", str(bundle), str(tmp_path / "cpp")],
    ]
    shell = CliRunner()  # in this process: each command is refused before it starts anything
    for command in commands:
        asked = shell.invoke(app, command, env={"EDGEKD_REQUIRE_SIGNATURE": "1"})
        assert isinstance(asked.exception, TrustError), command
        assert "EDGEKD_REQUIRE_SIGNATURE is set" in str(asked.exception)
        asked = shell.invoke(app, command, env={"EDGEKD_TRUST": str(public)})
        assert isinstance(asked.exception, TrustError), command
        assert "not signed" in str(asked.exception)
    trusting = {"EDGEKD_TRUST": str(public), "EDGEKD_REQUIRE_SIGNATURE": "1"}
    signed = ["sign", str(bundle), "--key", str(tmp_path / "key")]
    for command in [signed, *commands[:3]]:
        assert shell.invoke(app, command, env=trusting).exit_code == 0, command
