"""See that ONNX bytes hold a whole model, before a parser in native code gets them.

An ONNX file can name other files for its weights, and no hash covers those. ONNX Runtime and
OpenVINO look for them in the current folder when they get bytes; ONNX Runtime read them through
``..`` too until February 2026, and a certain name was taken for an address in the process's memory
(github.com/microsoft/onnxruntime, pull requests 27430 and 28709). So no such model is opened.

Read here is only protobuf's wire format (protobuf.dev, "Encoding") along the fields of onnx.proto
that lead to tensors; the boards that run this have no onnx package.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgekd.errors import BundleError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Message -> number of a field -> message in it; only what leads to a TensorProto.
PATHS = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}
IR_VERSION, GRAPH = 1, 7  # of ModelProto
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # of TensorProto


class _NotONNXError(Exception):
    """The bytes are not what the wire format allows."""


def check_onnx(content: bytes, name: str) -> None:
    """Raise BundleError unless ``content`` is one ONNX model that needs no other file.

    The graph itself is not checked: that is the runtime's parser's part.
    """
    try:
        _check_start(content)
        # Data elsewhere has its place under the key "location", so most files need no search.
        outside = b"location" in content and _has_external_data(content)
    except _NotONNXError as error:
        raise BundleError(f"{name} is no ONNX model ({error}); write the bundle again") from error
    if outside:
        raise BundleError(
            f"{name} keeps weights in other files, which no hash covers; save the model with its "
            "weights inside"
        )


def _check_start(content: bytes) -> None:
    """See that this is a ModelProto: runtimes guess, and would open other formats as well."""
    if content[4:8] == b"ORTM":
        raise _NotONNXError("it is in ONNX Runtime's own format")
    wire_types = {}
    for number, wire_type, _, _ in _fields(content, 0, len(content)):
        wire_types[number] = wire_type
    if wire_types.get(IR_VERSION) != _VARINT or wire_types.get(GRAPH) != _BYTES:
        raise _NotONNXError("it has no ir_version or no graph")


def _has_external_data(content: bytes) -> bool:
    open_messages = [("ModelProto", 0, len(content))]  # a list of our own: files may nest deeply
    while open_messages:
        message, start, end = open_messages.pop()
        for number, wire_type, first, last in _fields(content, start, end):
            if message == "TensorProto" and number in (EXTERNAL_DATA, DATA_LOCATION):
                if number == EXTERNAL_DATA or first != 0:
                    return True
            elif number in PATHS[message]:
                if wire_type != _BYTES:
                    raise _NotONNXError(f"field {number} of {message} is no message")
                open_messages.append((PATHS[message][number], first, last))
    return False


def _fields(content: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type, and where the content is; of a varint its value and 0."""
    place = start
    while place < end:
        key, place = _varint(content, place, end)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise _NotONNXError("a field without a number")
        if wire_type == _VARINT:
            value, place = _varint(content, place, end)
            yield number, wire_type, value, 0
            continue
        if wire_type == _BYTES:
            length, place = _varint(content, place, end)
        elif wire_type in (_FIXED32, _FIXED64):
            length = 4 if wire_type == _FIXED32 else 8
        else:
            raise _NotONNXError(f"a field of wire type {wire_type}")
        if length > end - place:
            raise _NotONNXError("it ends in the middle of a field")
        yield number, wire_type, place, place + length
        place += length


def _varint(content: bytes, place: int, end: int) -> tuple[int, int]:
    """Return a number and the place behind it."""
    value = 0
    for position in range(place, min(place + 10, end)):
        byte = content[position]
        value |= (byte & 0x7F) << (7 * (position - place))
        if byte < 0x80:
            return value, position + 1
    raise _NotONNXError("a number without an end")
