"""``edgekd deploy cpp``: a bundle as a CMake project of one file, on ONNX Runtime's C++ API.

Lengths, hashes, tensors and options are written into the source as constants. So the program needs
no JSON reader, and it runs this bundle and no other: a manifest that was exchanged along with the
model is found too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from edgekd.deploy.choice import Choice, choose
from edgekd.deploy.folder import check_folder, write_folder
from edgekd.deploy.notes import bullets, plain, preprocessing_text, tensor_lines
from edgekd.deploy.pbtxt import quote
from edgekd.errors import BundleError
from edgekd.runtime.bundle import read_files
from edgekd.runtime.fields import MANIFEST_NAME
from edgekd.runtime.manifest import Manifest
from edgekd.runtime.trust import read_trusted_manifest
from edgekd.spec import TensorSpec

ELEMENT_TYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FLOAT16",
    "float32": "FLOAT",
    "float64": "DOUBLE",
}
"""numpy dtype name -> the last part of ONNX Runtime's, for every dtype that a manifest may hold."""

_MARK = "//@BUNDLE@\n"


@dataclass(frozen=True)
class Project:
    """What was written: the folder, the file of the bundle that it runs, notes for the user."""

    folder: Path
    choice: Choice
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "folder": str(self.folder),
            "file": self.choice.file,
            "model": self.choice.model,
            "notes": list(self.notes),
        }


def deploy_cpp(bundle: Path, project: Path, *, model: str | None = None) -> Project:
    """Write the project into the folder ``project``, with the files of the bundle that it runs.

    ``model`` is a role of the bundle; left out, it is that of the bundle's deployment where this is
    on ONNX Runtime, else ``compressed``. The bundle is verified first.

    Raises BundleError when the bundle is not intact, a name cannot be written in C++, or the folder
    holds files that were not written by this.
    """
    manifest = read_trusted_manifest(bundle)
    try:
        choice = choose(manifest, "onnxruntime", model)
        content = {
            MANIFEST_NAME: _manifest_bytes(bundle, manifest),
            **read_files(bundle, manifest, [choice.file]),
        }
        constants = _constants(manifest, choice, content)
    except BundleError as error:
        raise BundleError(_named(bundle, error)) from error
    check_folder(project)
    files = {
        "main.cpp": _template("main.cpp").replace(_MARK, constants).encode("ascii"),
        "CMakeLists.txt": _template("CMakeLists.txt").encode("ascii"),
        "README.md": _readme(manifest, choice).encode("utf-8"),
        **{f"bundle/{name}": data for name, data in content.items()},
    }
    record = {"kind": "cpp", "bundle": manifest.name, "file": choice.file}
    return Project(write_folder(project, files, record), choice, choice.notes)


def literal(text: str) -> str:
    """Return ``text`` as a C++ string literal in ASCII, with octal escapes of its UTF-8.

    Raises BundleError for what a C string cannot hold: a zero byte, half a surrogate pair.
    """
    if "\0" in text:
        raise BundleError(f"the name {text!r} has a zero byte, which ends names in C: rename it")
    return quote(text).replace("?", "\\?")  # two of them would begin a trigraph


def _constants(manifest: Manifest, choice: Choice, content: Mapping[str, bytes]) -> str:
    files = [
        f'    {{"{name}", {len(data)}u, "{hashlib.sha256(data).hexdigest()}"}},'
        for name, data in content.items()
    ]
    as_written = str(manifest.target["runtime"] != "onnxruntime").lower()
    lines = [
        "const File kFiles[] = {",
        *files,
        "};",
        f'const char* const kModel = "{choice.file}";',
        "// Whether the graph is computed as written: edgekd.runtime does so with graphs of other",
        "// targets than ONNX Runtime (edgekd/runtime/options.py).",
        f"const bool kAsWritten = {as_written};",
        *_tensors("kInputs", manifest.spec.inputs),
        *_tensors("kOutputs", manifest.spec.outputs),
    ]
    return "".join(f"{line}\n" for line in lines)


def _tensors(name: str, specs: Sequence[TensorSpec]) -> list[str]:
    lines = [f"const std::vector<Tensor> {name} = {{"]
    for spec in specs:
        shape = ", ".join("-1" if size is None else str(size) for size in spec.shape)
        kind = f"ONNX_TENSOR_ELEMENT_DATA_TYPE_{ELEMENT_TYPES[spec.dtype]}"
        lines.append(f"    Tensor{{{literal(spec.name)}, {kind}, {{{shape}}}}},")
    return [*lines, "};"]


def _readme(manifest: Manifest, choice: Choice) -> str:
    parts = {
        "@TITLE@": plain(manifest.name),
        "@FILE@": choice.file,
        "@NOTES@": bullets(choice.notes),
        "@TENSORS@": tensor_lines(manifest.spec),
        "@PREPROCESSING@": preprocessing_text(manifest),
    }
    text = _template("README.md")
    return re.sub("|".join(parts), lambda found: parts[found[0]], text)


def _manifest_bytes(bundle: Path, manifest: Manifest) -> bytes:
    try:
        content = (bundle / MANIFEST_NAME).read_bytes()
        same = json.loads(content) == manifest.data
    except (OSError, ValueError, RecursionError):
        same = False
    if not same:
        raise BundleError(f"{MANIFEST_NAME} changed while it was read; try again")
    return content


def _named(bundle: Path, error: BundleError) -> str:
    message = str(error)
    return message if message.startswith(f"{bundle}: ") else f"{bundle}: {message}"


def _template(name: str) -> str:
    return (resources("edgekd.deploy") / "cpp_project" / name).read_text("utf-8")
