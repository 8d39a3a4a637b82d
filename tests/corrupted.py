"""Corrupted copies of signed bundles: 500 from a fixed seed, each a way to be wrong or hostile.

``python -m corrupted BUNDLE ...`` (with ``tests`` on the path) does the same to copies of real
bundles and prints a table by kind.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import shutil
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from corrupted_loads import Attempt, load_all
from onnx import TensorProto, helper

from edgekd.runtime.fields import MANIFEST_NAME, SIGNATURE_NAME
from edgekd.runtime.manifest import FIELDS
from edgekd.runtime.trust import CONTEXT
from edgekd.signing import make_key, sign_bundle

SEED = 7


@dataclass(frozen=True)
class Room:
    """Where cases are made: sound signed ``bundles``, a trusted and a strange key, a secret file.

    ``outside`` holds what a bundle must not reach: files whose hashes an attacker would know.
    """

    path: Path
    bundles: tuple[Path, ...]
    key: Path
    other_key: Path

    @property
    def outside(self) -> Path:
        return self.path / "outside"


class Case:
    """A copy of a bundle to damage. ``rng`` belongs to the case alone."""

    def __init__(self, number: int, room: Room) -> None:
        self.rng = random.Random(f"{SEED}-{number}")
        self.room = room
        self.origin = room.bundles[number % len(room.bundles)]
        self.path = room.path / "cases" / f"{number:03d}"
        shutil.copytree(self.origin, self.path)

    @property
    def files(self) -> list[str]:
        return sorted(self.manifest()["files"])

    def manifest(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((self.path / MANIFEST_NAME).read_bytes())
        return data

    def write(self, manifest: Any) -> None:
        text = json.dumps(manifest, indent=2)
        (self.path / MANIFEST_NAME).write_text(text + "\n", "utf-8")

    def pick(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def file(self) -> Path:
        return self.path / self.rng.choice(self.files)

    def flip(self, path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[self.rng.randrange(len(content))] ^= 1 << self.rng.randrange(8)
        path.write_bytes(content)

    def rehash(self, name: str, content: bytes) -> None:
        """Exchange a file and its entry, as an attacker would who may write to the folder."""
        (self.path / name).write_bytes(content)
        data = self.manifest()
        data["files"][name] = entry(content)
        self.write(data)

    def opened(self) -> str:
        """Return a file that ``load`` opens."""
        data = self.manifest()
        cascade = data.get("cascade")
        if cascade and any(cascade["operating_points"][cascade["default"]]["thresholds"]):
            return str(self.rng.choice(cascade["segments"])["file"])
        role = (data.get("deployment") or {}).get("model", "compressed")
        return str(data["models"][role])


def entry(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


# Damage that the hashes show.


def flipped_bit(case: Case) -> None:
    case.flip(case.file())


def truncated(case: Case) -> None:
    path = case.file()
    content = path.read_bytes()
    path.write_bytes(content[: case.rng.randrange(len(content))])


def extended(case: Case) -> None:
    path = case.file()
    path.write_bytes(path.read_bytes() + case.rng.randbytes(case.rng.randint(1, 5000)))


def swapped(case: Case) -> None:
    first, second = (case.path / name for name in case.rng.sample(case.files, 2))
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


def missing(case: Case) -> None:
    case.pick(case.file(), case.path / MANIFEST_NAME).unlink()


def other_bundle(case: Case) -> None:
    """Manifest and signature of another bundle of the same maker: the files do not go with it."""
    others = [bundle for bundle in case.room.bundles if bundle != case.origin]
    if not others:  # one bundle alone: an earlier model of its own
        name = case.opened()
        (case.path / name).write_bytes(b"\x08\x01" + (case.path / name).read_bytes())
        return
    other = case.rng.choice(others)
    for name in (MANIFEST_NAME, SIGNATURE_NAME):
        shutil.copy(other / name, case.path / name)


def no_plain_file(case: Case) -> None:
    """What has the file's name is something else, or lies elsewhere."""
    path = case.pick(case.file(), case.path / MANIFEST_NAME)
    content = path.read_bytes()
    path.unlink()
    kind = case.rng.randrange(7)
    outside = case.room.outside / f"{case.path.name}-{path.name}"
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to(case.pick("/dev/zero", "/dev/stdin", "/dev/tty"))
    elif kind == 3:  # the right content, but not of this bundle
        outside.write_bytes(content)
        path.symlink_to(case.pick(outside, Path("../../outside") / outside.name))
    elif kind == 4:
        path.symlink_to(path.name)
    elif kind == 5:
        path.symlink_to("nowhere")
    else:
        here = Path.cwd()
        os.chdir(case.path)  # names of sockets are short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
        os.chdir(here)


def giant(case: Case) -> None:
    """A length that is only claimed, and files with a hole of that length."""
    data, huge = case.manifest(), case.pick(10**9, 2**40, 2**63, 10**30)
    name = case.rng.choice(case.files)
    kind = case.rng.randrange(5)
    if kind == 0:
        data["files"][name]["bytes"] = huge
    elif kind == 1:
        data["files"][name]["bytes"] = case.pick(-1, -(2**63), 1e9, "1000", None, True)
    elif kind == 2:  # all lengths agree: nothing but a limit keeps it from being read
        name = case.opened()
        os.truncate(case.path / name, 2**34)
        data["files"][name]["bytes"] = 2**34
    elif kind == 3:
        os.truncate(case.path / name, 2**34)
    else:
        os.truncate(case.path / MANIFEST_NAME, 2**34)
        return
    case.write(data)


# Manifests that no reader can believe. Their hashes are those of the files.


def cut_manifest(case: Case) -> None:
    path = case.path / MANIFEST_NAME
    content = path.read_bytes()
    path.write_bytes(content[: case.rng.randrange(len(content) - 2)])


def missing_field(case: Case) -> None:
    data = case.manifest()
    name = case.rng.choice(case.files)
    place, key = case.pick(
        *((data, field) for field in ("format_version", *FIELDS)),
        (data["files"], case.opened()),
        (data["files"][name], case.pick("sha256", "bytes")),
        (data["target"], case.pick("name", "runtime")),
        (data["models"], "compressed"),
        (data["spec"], case.pick("inputs", "outputs")),
        (data["spec"]["inputs"][0], case.pick("name", "dtype", "shape")),
    )
    del place[key]
    case.write(data)


def wrong_type(case: Case) -> None:
    data = case.manifest()
    wrong = case.pick(True, 1.5, -7, [], [[]], {"?": []}, [None])
    name = case.rng.choice(case.files)
    place, key = case.pick(
        *((data, field) for field in ("format_version", *FIELDS) if field != "classes"),
        (data["files"], name),
        (data["files"][name], "sha256"),
        (data["target"], case.pick("name", "runtime")),
        (data["models"], "compressed"),
        (data["spec"], case.pick("inputs", "outputs")),
        (data["spec"]["inputs"][0], case.pick("name", "dtype")),
    )
    place[key] = wrong
    case.write(data)


def no_json(case: Case) -> None:
    """Content that JSON does not allow, or that has no single meaning, or is a trap for parsers."""
    path = case.path / MANIFEST_NAME
    good = path.read_bytes()
    body = good.strip()[1:]  # without the first brace

    def first(text: str | bytes) -> bytes:
        return b"{" + (text if isinstance(text, bytes) else text.encode()) + b", " + body

    path.write_bytes(
        case.pick(
            b"",
            b"\xff\xfe" + good,
            b"\xef\xbb\xbf" + good,
            good.decode().encode("utf-16"),
            good[:40] + b"\0" + good[40:],
            good + good,
            b"[" * case.rng.randint(1000, 10**6),
            b'{"a":' * 200_000,
            first('"a": ' + "[" * 100 + "]" * 100),
            first('"a": NaN'),
            first('"a": -Infinity'),
            first('"a": 1e999'),
            first('"a": ' + "9" * case.rng.randint(41, 10**6)),
            first('"a": "\\ud800"'),
            first('"a": "\\u001b[2J"'),
            first('"a": "\\u0000"'),
            first(b'"a": "\xed\xa0\x80"'),
            first(b'"\xc0\xae\xc0\xae/": 1'),
        )
    )


def duplicate_key(case: Case) -> None:
    """The same key twice: which one counts depends on who reads it."""
    path = case.path / MANIFEST_NAME
    text = path.read_text("utf-8")
    data = case.manifest()
    field = case.rng.choice(["files", "models", "spec", "name", "target"])
    again = json.dumps(case.pick(data[field], None, {}))
    if case.rng.random() < 0.5:
        text = text.replace("{", "{" + f'"{field}": {again},', 1)
    else:
        name = case.rng.choice(case.files)
        twice = f'{{"{name}": {json.dumps(entry(b""))},'
        text = text.replace('"files": {', f'"files": {twice}', 1)
    path.write_text(text, "utf-8")


def path_traversal(case: Case) -> None:
    """A name that leads out of the folder, to a file whose hash is right; or one that misleads."""
    secret = case.room.outside / "secret.onnx"
    name = case.pick(
        "../../outside/secret.onnx",
        "./../../outside/secret.onnx",
        str(secret),
        f"//{secret}",
        f"file://{secret}",
        "..\\..\\outside\\secret.onnx",
        "C:\\secret.onnx",
        "C:secret.onnx",
        "\\\\host\\share\\secret.onnx",
        "~/secret.onnx",
        "$HOME/secret.onnx",
        "%2e%2e/secret.onnx",
        "..",
        ".",
        "",
        "CON",
        "nul.onnx",
        "COM1.onnx",
        "model.onnx.",
        "model.onnx ",
        "model.onnx\n",
        "model.onnx::$DATA",
        "mod\u0435l.onnx",  # a Cyrillic letter
        "\uff0e\uff0e/secret.onnx",
        "model\u202e.onnx",
        "x" * 300,
        MANIFEST_NAME,
        "Manifest.JSON",
        SIGNATURE_NAME,
        "MANIFEST.SIG",
    )
    data, old = case.manifest(), case.opened()
    data["files"][name] = entry(secret.read_bytes())
    for role, file in data["models"].items():
        data["models"][role] = name if file == old else file
    if case.rng.random() < 0.3 and name not in (".", "..", "") and "/" not in name:
        (case.path / name[:200]).write_bytes(secret.read_bytes())
    case.write(data)


def two_cases(case: Case) -> None:
    """Names that are one file where upper and lower case are the same."""
    data, name = case.manifest(), case.rng.choice(case.files)
    data["files"][name.upper()] = data["files"][name]
    shutil.copy(case.path / name, case.path / name.upper())
    case.write(data)


def impossible_values(case: Case) -> None:
    data = case.manifest()
    side = data["spec"][case.pick("inputs", "outputs")]
    tensor = side[0]
    kind = case.rng.randrange(8)
    if kind == 0:
        tensor["shape"] = [None, *[2**31] * case.rng.randint(2, 5)]
    elif kind == 1:
        tensor["shape"] = [1] * case.rng.randint(33, 10_000)
    elif kind == 2:
        tensor["shape"] = [None, case.pick(0, -1, 2**63, 10**30, 1.5, True, "3")]
    elif kind == 3:
        tensor["name"] = case.pick("", "x\ty", "x" * 100_000, "\u202e", "x\u00a0y")
    elif kind == 4:
        side.append(copy.deepcopy(tensor))
    elif kind == 5:
        tensor["dtype"] = case.pick("object", "float31", ["float32"], "", "O", "V8")
    else:
        steps = {"layout": "NCHW", "mean": [0.5] * 3, "std": [0.2] * 3}
        key, value = case.pick(
            ("std", [0.0] * 3), ("std", [0.2, -0.2, 0.2]), ("std", [1e-320] * 3), ("std", []),
            ("mean", [1e300] * 3), ("mean", [0.1]), ("mean", [10**39] * 3), ("mean", ["0"] * 3),
            ("mean", [True] * 3), ("layout", "CHWN"), ("layout", None), ("mean", {"0": 1}),
        )  # fmt: skip
        data["preprocessing"] = {data["spec"]["inputs"][0]["name"]: {**steps, key: value}}
    case.write(data)


def bad_engine(case: Case) -> None:
    data = case.manifest()
    good = data.get("engines") or [engine_entry(data, case.opened(), case.opened())]
    broken = copy.deepcopy(good)
    name = next(iter(broken[0]["shapes"]))
    key, value = case.pick(
        ("file", "nowhere.engine"), ("file", ["a"]), ("file", "../x"), ("onnx", None),
        ("model", "nothing"), ("model", {}), ("binding", "tensorflow"), ("binding", 1),
        ("version", "ten"), ("version", "9" * 5000 + ".1"), ("version", "\u0661.\u0662"),
        ("compute_capabilities", []), ("compute_capabilities", "8.7"),
        ("compute_capabilities", ["8"]), ("cuda", 12), ("platform", ""), ("platform", "a\u202eb"),
        ("version_compatible", 1), ("hardware_compatible", "all"), ("shapes", {}),
        ("shapes", {name: {"min": [1], "opt": [2], "max": [10**12]}}),
        ("shapes", {name: {"min": [4, 1], "opt": [2, 1], "max": [8, 1]}}),
        ("shapes", {name: [1, 2, 3]}),
    )  # fmt: skip
    broken[0][key] = value
    data["engines"] = case.pick(broken, broken, broken, broken, "x", {"0": broken[0]}, [None])
    case.write(data)


def bad_cascade(case: Case) -> None:
    data = case.manifest()
    field = copy.deepcopy(data.get("cascade"))
    if field is None:
        data["cascade"] = case.pick({}, [], "x", 1, {"exits": []}, {"confidence": ["margin"]})
        case.write(data)
        return
    place, key, value = case.pick(
        (field, "confidence", "luck"), (field, "confidence", []), (field, "exits", []),
        (field, "segments", field["segments"][:1]), (field, "default", "nothing"),
        (field, "default", ["full"]), (field, "operating_points", {}),
        (field["operating_points"], "a\nb", {"thresholds": [0.1] * len(field["exits"])}),
        (field["operating_points"], field["default"], {"thresholds": [10**400]}),
        (field["operating_points"], field["default"], {"thresholds": []}),
        (field["exits"][0], "temperature", 0), (field["exits"][0], "temperature", 10**400),
        (field["exits"][0], "name", ""), (field["segments"][1], "link", None),
        (field["segments"][1], "file", "../model.onnx"), (field["segments"][0], "file", {}),
        (field["segments"][1]["link"], "shape", [None]),
        (field["segments"][1]["link"], "shape", [None, 2**40, 2**40]),
        (field["segments"][0], "latency_ms", {"p50": -1, "p99": 1}),
    )  # fmt: skip
    place[key] = value
    data["cascade"] = field
    case.write(data)


# Models that are none, under hashes that are right.


def no_model(case: Case) -> None:
    name = case.opened()
    good = (case.path / name).read_bytes()
    case.rehash(
        name,
        case.pick(
            b"",
            b"\0" * 1000,
            case.rng.randbytes(case.rng.randint(1, 5000)),
            good[: case.rng.randrange(len(good) // 2)],
            good[: len(good) - case.rng.randint(1, 20)],
            good[case.rng.randint(1, 50) :],
            b"\x20\0\0\0ORTM" + good,
            b"<?xml version='1.0'?><net name='x' version='11'></net>",
            b"\x08\x08\x3a" + b"\xff" * 9 + b"\x01" + good,
            b"\x08\x08\x3a\x00",
            b"\x08\x08" + b"\x3a\x04\x0a\x02\x0a\x00" * 1000,
            nested(case.rng.randint(200, 100_000)),
        ),
    )


def nested(depth: int) -> bytes:
    """Return a model whose graph holds a graph that holds a graph, and so on."""
    inner = b"location"
    for _ in range(min(depth, 300)):
        for field in (0x32, 0x2A, 0x0A):  # attribute.g, node.attribute, graph.node
            size, length = len(inner), b""
            while size >= 0x80:
                length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
            inner = bytes([field]) + length + bytes([size]) + inner
    size, length = len(inner), b""
    while size >= 0x80:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return b"\x08\x08\x3a" + length + bytes([size]) + inner


def outside_weights(case: Case) -> None:
    """Weights that lie in another file, in a place that runtimes would look at."""
    name = case.opened()
    model = onnx.load_from_string((case.path / name).read_bytes())
    tensor = TensorProto(name="w_outside", data_type=TensorProto.FLOAT, dims=[1, 5])
    tensor.data_location = TensorProto.EXTERNAL
    location = case.pick(
        "secret.bin", "../outside/secret.bin", str(case.room.outside / "secret.bin"),
        "*/_ORT_MEM_ADDR_/*", MANIFEST_NAME, "",
    )  # fmt: skip
    for key, value in (("location", location), ("offset", "0"), ("length", "20")):
        tensor.external_data.add(key=key, value=value)
    kind = case.rng.randrange(3)
    if kind == 0:
        model.graph.initializer.append(tensor)
    elif kind == 1:
        constant = helper.make_node("Constant", [], ["w_outside"], value=tensor)
        model.graph.node.insert(0, constant)
    else:
        body = helper.make_graph([], "body", [], [], [tensor])
        model.graph.node.insert(0, helper.make_node("If", ["c"], ["d"], then_branch=body))
    case.rehash(name, model.SerializeToString())


# What only a signature shows.


def flipped_manifest(case: Case) -> None:
    case.flip(case.path / MANIFEST_NAME)


def spaced_manifest(case: Case) -> None:
    """The same data in other bytes."""
    path = case.path / MANIFEST_NAME
    text = path.read_text("utf-8")
    path.write_text(case.pick(text + "\n", text.replace("\n", "\r\n"), text.rstrip(), " " + text))


def changed_manifest(case: Case) -> None:
    data = case.manifest()
    change: dict[str, Any] = case.pick(
        {"name": "another"}, {"classes": None}, {"task": "other"}, {"created": "yesterday"},
        {"preprocessing": {}}, {"notes": ["trust me"]}, {"deployment": None, "more": 1},
    )  # fmt: skip
    case.write({**data, **change, "changed": True})


def replaced_model(case: Case) -> None:
    """A bit of a model or another file is changed, and its hash with it; the signature stays."""
    name = case.rng.choice(case.files)
    content = bytearray((case.path / name).read_bytes())
    content[case.rng.randrange(len(content))] ^= 1 << case.rng.randrange(8)
    case.rehash(name, bytes(content))


def wrong_signature(case: Case) -> None:  # noqa: PLR0912 - a list of ways
    path = case.path / SIGNATURE_NAME
    good = path.read_bytes()
    fields = json.loads(good)
    kind = case.rng.randrange(14)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(good[: case.rng.randrange(len(good))])
    elif kind in (2, 3):
        case.flip(path)
    elif kind == 4:
        sign_bundle(case.path, case.room.other_key)
    elif kind == 5:  # another's signature under the name of the trusted key
        sign_bundle(case.path, case.room.other_key)
        theirs = json.loads(path.read_bytes())
        path.write_bytes(dump({**theirs, "key_id": fields["key_id"]}))
    elif kind == 6:  # the right key, but another text
        text = case.pick(b"", b"x", CONTEXT)
        path.write_bytes(dump({**fields, "signature": raw_signature(case.room.key, text)}))
    elif kind == 7:  # without the words that are signed before the manifest
        content = (case.path / MANIFEST_NAME).read_bytes()
        path.write_bytes(dump({**fields, "signature": raw_signature(case.room.key, content)}))
    elif kind == 8:
        wrong = case.pick("none", "rsa", "ED25519", "", None, ["ed25519"], "hmac-sha256")
        path.write_bytes(dump({**fields, "algorithm": wrong}))
    elif kind == 9:
        wrong = case.pick("", "A" * 88, "?" * 88, None, 7, fields["signature"] + "\n", "A" * 4000)
        path.write_bytes(dump({**fields, "signature": wrong}))
    elif kind == 10:
        path.write_bytes(case.pick(b"", b"{}", b"[]", b"null", b"\xff", b"[" * 4000, b"9" * 4000))
    elif kind == 11:
        more: dict[str, Any] = case.pick({"note": "x"}, {"format_version": 2}, {"key_id": "0" * 64})
        path.write_bytes(dump({**fields, **more}))
    elif kind == 12:
        os.truncate(path, case.pick(5000, 2**34))
    else:
        path.unlink()
        elsewhere = case.room.outside / f"{case.path.name}.sig"
        elsewhere.write_bytes(good)
        case.pick(path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(elsewhere))()


def dump(fields: Any) -> bytes:
    return (json.dumps(fields, indent=2) + "\n").encode()


def raw_signature(key: Path, text: bytes) -> str:
    import base64

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private = load_pem_private_key(key.read_bytes(), None)
    assert isinstance(private, Ed25519PrivateKey)
    return base64.b64encode(private.sign(text)).decode()


@dataclass(frozen=True)
class Kind:
    """``count`` cases; ``unsigned`` says what loading without ``trust`` has to come to."""

    damage: Callable[[Case], None]
    count: int
    unsigned: str  # refused | loaded | either


KINDS = (
    Kind(flipped_bit, 50, "refused"),
    Kind(truncated, 30, "refused"),
    Kind(extended, 12, "refused"),
    Kind(swapped, 15, "refused"),
    Kind(missing, 12, "refused"),
    Kind(other_bundle, 12, "refused"),
    Kind(no_plain_file, 30, "refused"),
    Kind(giant, 24, "refused"),
    Kind(cut_manifest, 15, "refused"),
    Kind(missing_field, 24, "refused"),
    Kind(wrong_type, 30, "refused"),
    Kind(no_json, 24, "refused"),
    Kind(duplicate_key, 10, "refused"),
    Kind(path_traversal, 36, "refused"),
    Kind(two_cases, 6, "refused"),
    Kind(impossible_values, 20, "refused"),
    Kind(bad_engine, 18, "refused"),
    Kind(bad_cascade, 18, "refused"),
    Kind(no_model, 24, "refused"),
    Kind(outside_weights, 12, "refused"),
    Kind(flipped_manifest, 18, "either"),
    Kind(spaced_manifest, 4, "loaded"),
    Kind(changed_manifest, 4, "loaded"),
    Kind(replaced_model, 12, "either"),
    Kind(wrong_signature, 40, "loaded"),
)


def make_room(path: Path, bundles: list[Path]) -> Room:
    """Make keys, sign copies of ``bundles``, and lay out what a bundle must not reach."""
    path = path.resolve()
    for name in ("outside", "cases", "home", "sound"):
        (path / name).mkdir(parents=True)
    key, other = path / "key", path / "other"
    make_key(key)
    make_key(other)
    copies = []
    for number, bundle in enumerate(bundles):
        copied = path / "sound" / f"{number}-{bundle.name}"
        shutil.copytree(bundle, copied)
        sign_bundle(copied, key)
        copies.append(copied)
    for place in (path / "outside", path / "home"):
        (place / "secret.bin").write_bytes(b"\0\0\x80\x3f" * 5)
    model = next(copies[0].glob("model.onnx")).read_bytes()
    (path / "outside" / "secret.onnx").write_bytes(model)
    return Room(path, tuple(copies), key, other)


def make_cases(room: Room) -> list[tuple[Path, Kind]]:
    """Make every case; a damage that changes nothing is a mistake of this file."""
    made = []
    for kind in KINDS:
        for _ in range(kind.count):
            case = Case(len(made), room)
            kind.damage(case)
            assert fingerprint(case.path) != fingerprint(case.origin), (case.path, kind.damage)
            made.append((case.path, kind))
    return made


def fingerprint(folder: Path) -> dict[str, Any]:
    """Return what is in a folder, hash by hash; of files with large holes only their length."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        held: Any = status.st_mode
        if path.is_symlink():
            held = path.readlink()
        elif path.is_file():
            small = status.st_size < 2**30
            held = hashlib.sha256(path.read_bytes()).hexdigest() if small else status.st_size
        found[str(path.relative_to(folder))] = held
    return found


def engine_entry(manifest: dict[str, Any], file: str, onnx_file: str) -> dict[str, Any]:
    shapes = {
        tensor["name"]: {
            key: [size or batch for size in tensor["shape"]]
            for key, batch in (("min", 1), ("opt", 8), ("max", 64))
        }
        for tensor in manifest["spec"]["inputs"]
    }
    return {
        "file": file, "model": "compressed", "onnx": onnx_file, "binding": "tensorrt",
        "version": "10.3.0", "compute_capabilities": ["8.7"], "cuda": "12.6",
        "platform": "linux-aarch64", "version_compatible": False, "hardware_compatible": "none",
        "shapes": shapes,
    }  # fmt: skip


def table(cases: list[tuple[Path, Kind]], attempts: list[Attempt]) -> str:
    """Return rows: kind, cases, refused with trust, and what loading without it came to."""
    outcomes: Counter[tuple[str, bool, str]] = Counter()
    for attempt in attempts:
        kind = cases[attempt.number][1]
        outcomes[kind.damage.__name__, attempt.trusting, attempt.outcome] += 1
    rows = ["kind               cases  with trust: refused  without: refused  loads"]
    for kind in KINDS:
        name = kind.damage.__name__
        rows.append(
            f"{name:18} {kind.count:6} {outcomes[name, True, 'refused']:20}"
            f" {outcomes[name, False, 'refused']:17} {outcomes[name, False, 'loaded']:6}"
        )
    total = Counter((trusting, outcome) for _, trusting, outcome in outcomes.elements())
    rows.append(
        f"{'all':18} {len(cases):6} {total[True, 'refused']:20} {total[False, 'refused']:17}"
        f" {total[False, 'loaded']:6}"
    )
    return "\n".join(rows)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        room = make_room(Path(folder) / "room", [Path(name) for name in sys.argv[1:]])
        cases = make_cases(room)
        result = load_all(room.path, room.key.with_name("key.pub"), [path for path, _ in cases])
    other = Counter(a.outcome for a in result.attempts if a.outcome not in ("refused", "loaded"))
    trusted = sum(a.trusting and a.outcome != "refused" for a in result.attempts)
    lines = (
        table(cases, result.attempts),
        f"loaded with trust: {trusted}; crashed or escaped: {dict(other) or 0}",
        f"writes: {len(result.writes)}; reads outside the folder: {len(result.strange_reads)}",
        f"memory grew by {result.grown_mb:.0f} MB at most",
    )
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(bool(other or trusted))


if __name__ == "__main__":
    main()
