"""Tell what a model file is from its bytes, never from its suffix, and without unpickling."""

from __future__ import annotations

import io
import zipfile

from edgekd.errors import ModelError

# torch.save before the zip format starts with the pickle of this number (0x1950a86a20f9469cfc6c);
# the protocol byte in front of it varies, the opcode and the digits do not.
_LEGACY_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_RE_EXPORT = (
    "load the source model in Python and save it with edgekd.save_model(model, example, path)"
)


def recognise(data: bytes, name: str) -> str:
    """Return ``checkpoint`` (torch.save), ``safetensors`` or ``program`` (torch.export).

    ``name`` is the file's name, for messages. Raises ModelError for anything else, saying what
    the file is and how to get a file that works.
    """
    if not data:
        raise ModelError(f"{name} is empty (0 bytes)")
    if data[:2] == b"PK":
        return _recognise_zip(data, name)
    if _LEGACY_MAGIC in data[:32]:
        return "checkpoint"
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8:
        return "safetensors"
    raise ModelError(f"{name} {_what_else(data)}")


def _recognise_zip(data: bytes, name: str) -> str:
    try:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise ModelError(f"{name} is truncated or damaged: copy or save it again") from error
    # Every torch archive keeps its records under one root folder; its name is free.
    records = {entry.partition("/")[2] for entry in names}
    if "constants.pkl" in records and any(record.startswith("code/") for record in records):
        raise ModelError(
            f"{name} is a TorchScript archive, which edgekd does not read: {_RE_EXPORT}"
        )
    if "archive_format" in records:
        return "program"
    if "serialized_exported_program.json" in names:
        raise ModelError(
            f"{name} is a torch.export file of an old torch (2.7 or before): {_RE_EXPORT}"
        )
    if "data.pkl" in records:
        return "checkpoint"
    if names and all(entry.endswith(".npy") for entry in names):
        raise ModelError(f"{name} holds numpy arrays, not a model (give data with --data)")
    raise ModelError(f"{name} is a zip file, but not one that torch.save or torch.export writes")


def _what_else(data: bytes) -> str:
    """Say what a file is that is no model edgekd reads."""
    head = data[:512].lstrip().lower()
    if head.startswith(b"<"):
        return "is a web page, not a model: the download failed"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the model: run git lfs pull"
    if looks_like_onnx(data):
        return (
            f"is an ONNX model, which cannot be changed: {_RE_EXPORT}, or give --student, a "
            "network of your own that learns from it"
        )
    if data[257:262] == b"ustar":
        return "is a tar file; extract it first, or save the model again with a current torch"
    if data[:1] == b"\x80":
        return "is a plain pickle, not a torch.save file: save the state_dict with torch.save"
    return "is not a model file that edgekd knows (torch.save, torch.export, safetensors)"


def looks_like_onnx(data: bytes) -> bool:
    """Tell whether a file, or its first bytes, begins as an ONNX model does.

    ONNX is protobuf: field 1 (the IR version, a small number), then another field of ModelProto:
    0x12 producer_name, 0x1a producer_version, 0x3a graph, 0x42 opset_import.
    """
    version, field = data[1:2], data[2:3]
    return (
        data[:1] == b"\x08"
        and 0 < int.from_bytes(version) < 32
        and field in (b"\x12", b"\x1a", b"\x3a", b"B")
    )
