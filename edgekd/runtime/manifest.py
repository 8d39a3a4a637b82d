"""What ``manifest.json`` says, checked field by field. Pure: no file is opened here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekd.errors import BundleError, DataError
from edgekd.preprocessing import ImagePreprocessing
from edgekd.runtime.cascade_manifest import CascadeManifest, parse_cascade
from edgekd.runtime.engine_manifest import EngineEntry, parse_engines
from edgekd.runtime.fields import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    is_number,
    mapping,
    need,
    shown,
    tensor_name,
    text,
)
from edgekd.spec import ModelSpec

FORMAT_VERSION = 1
TASKS = ("classification", "other")
FIELDS = ("name", "target", "files", "models", "spec", "preprocessing", "classes", "task")

LARGEST_FILE = 2**40  # bytes; a length is compared with the file's before anything is read

# A list of what is allowed also refuses separators, drives, "..", names that hide, letters that
# only look like others, and dots at the end, which Windows drops.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?")
# Windows opens devices under these names, whatever follows the first dot.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_FACTORS = (1e-30, 1e30)  # float32 holds these, and what they give of a pixel
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileEntry:
    """What a file of the bundle must be: its SHA-256 (64 hex digits) and its length in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Deployment:
    """What production is to run: a role of ``models``, a runtime, and the precision of floats.

    ``runtime`` is ``onnxruntime``, ``openvino`` or ``tensorrt``; ``precision`` is ``f32``, ``bf16``
    or None for the runtime's own, which is ``f32`` in the first two.
    """

    model: str = "compressed"
    runtime: str = "onnxruntime"
    precision: str | None = None


@dataclass(frozen=True)
class Manifest:
    """A bundle's manifest: what reading needs, typed, and everything else in ``data``.

    ``models`` names a file for every role (``compressed``, ``baseline``); ``preprocessing`` is
    keyed by input name and may be empty; ``deployment`` is what was chosen for the target, by
    default the compressed model on ONNX Runtime; ``cascade`` are the segments of a model with early
    exits; ``engines`` are what TensorRT built of it; ``data`` is the whole manifest as plain JSON
    data.
    """

    format_version: int
    name: str
    target: Mapping[str, Any]
    files: Mapping[str, FileEntry]
    models: Mapping[str, str]
    spec: ModelSpec
    preprocessing: Mapping[str, ImagePreprocessing]
    classes: tuple[str, ...] | None
    task: str
    deployment: Deployment
    cascade: CascadeManifest | None
    engines: tuple[EngineEntry, ...]
    data: Mapping[str, Any] = field(repr=False)


def is_plain_name(name: object) -> bool:
    """Return whether ``name`` can be a file of a bundle on every system.

    It is no path, no device, and neither the manifest nor its signature.
    """
    return (
        isinstance(name, str)
        and _PLAIN_NAME.fullmatch(name) is not None
        and _DEVICES.fullmatch(name) is None
        and name.lower() not in (MANIFEST_NAME, SIGNATURE_NAME)
    )


def parse_manifest(data: object) -> Manifest:
    """Check plain JSON data and return it as a Manifest.

    Raises BundleError that names the field: another format version, a missing or ill-typed
    field, a file name that leaves the folder, a model that is not among the files.
    """
    fields = mapping(data, "its content")
    _check_version(fields)
    missing = [name for name in FIELDS if name not in fields]
    if missing:
        raise BundleError(f"{MANIFEST_NAME} lacks {', '.join(missing)}: write the bundle again")
    files = _files(fields["files"])
    spec = _spec(fields["spec"])
    models = _models(fields["models"], files)
    inputs = [tensor.name for tensor in spec.inputs]
    return Manifest(
        format_version=FORMAT_VERSION,
        name=text(fields["name"], "name"),
        target=_target(fields["target"]),
        files=files,
        models=models,
        spec=spec,
        preprocessing=_preprocessing(fields["preprocessing"], spec),
        classes=_classes(fields["classes"]),
        task=_task(fields["task"]),
        deployment=_deployment(fields.get("deployment"), models),
        cascade=_cascade(fields.get("cascade"), files, spec),
        engines=parse_engines(fields.get("engines"), files, models, inputs),
        data=fields,
    )


def _check_version(fields: Mapping[str, Any]) -> None:
    version = fields.get("format_version")
    if type(version) is not int or not 0 <= version < 10**6:
        raise BundleError(f"{MANIFEST_NAME} lacks a whole number format_version: not a bundle")
    if version != FORMAT_VERSION:
        todo = "update edgekd" if version > FORMAT_VERSION else "write the bundle again"
        raise BundleError(
            f"the bundle has format {version}, this edgekd reads format {FORMAT_VERSION}: {todo}"
        )


def _target(value: object) -> Mapping[str, Any]:
    target = mapping(value, "target")
    text(target.get("name"), "target.name")
    text(target.get("runtime"), "target.runtime")
    return target


def _files(value: object) -> Mapping[str, FileEntry]:
    files = {}
    for name, entry in mapping(value, "files").items():
        need(is_plain_name(name), f"files: {name!a}", "a plain file name inside the bundle")
        files[name] = _file(mapping(entry, f"files.{name}"), f"files.{name}")
    # Where upper and lower case are one, two such names would be one file.
    need(len({name.lower() for name in files}) == len(files), "files", "files of different names")
    return files


def _file(entry: Mapping[str, Any], name: str) -> FileEntry:
    sha256, size = entry.get("sha256", ""), entry.get("bytes", -1)
    is_hash = isinstance(sha256, str) and _SHA256.fullmatch(sha256) is not None
    need(is_hash, f"{name}.sha256", "64 lower-case hexadecimal digits")
    is_size = type(size) is int and 0 <= size <= LARGEST_FILE
    need(is_size, f"{name}.bytes", f"a whole number of bytes up to {LARGEST_FILE}")
    return FileEntry(sha256, size)


def _models(value: object, files: Mapping[str, FileEntry]) -> Mapping[str, str]:
    models = mapping(value, "models")
    need("compressed" in models, "models", "an object with the entry 'compressed'")
    for role, name in models.items():
        text(role, "models: a role")
        need(isinstance(name, str) and name in files, f"models.{role}", "one of the files listed")
    return models


def _spec(value: object) -> ModelSpec:
    spec = mapping(value, "spec")
    for side in ("inputs", "outputs"):
        tensors = spec.get(side, [])
        need(isinstance(tensors, list) and tensors != [], f"spec.{side}", "a list of tensors")
        names = [tensor_name(tensor, f"spec.{side}[{i}]") for i, tensor in enumerate(tensors)]
        need(len(set(names)) == len(names), f"spec.{side}", "tensors of different names")
    return ModelSpec.from_dict(spec)


def _preprocessing(value: object, spec: ModelSpec) -> Mapping[str, ImagePreprocessing]:
    steps = {}
    for name, entry in mapping(value, "preprocessing").items():
        where = f"preprocessing.{name}"
        need(name in [tensor.name for tensor in spec.inputs], where, "named like an input")
        step = mapping(entry, where)
        text(step.get("layout"), f"{where}.layout")
        for key in ("mean", "std"):
            need(_are_numbers(step.get(key)), f"{where}.{key}", "a list of finite numbers")
        try:
            steps[name] = ImagePreprocessing.from_dict(step)
        except DataError as error:
            raise BundleError(f"{MANIFEST_NAME}: {where}: {shown(str(error))}") from error
        smallest, largest = _FACTORS
        wide = all(value >= smallest for value in steps[name].std)
        need(wide, f"{where}.std", f"{smallest} or more in every channel")
        high = all(abs(value) <= largest for value in (*steps[name].mean, *steps[name].std))
        need(high, where, f"of means and stds up to {largest}")
    return steps


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(is_number(number) for number in value)


def _classes(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    is_names = isinstance(value, list) and all(isinstance(name, str) for name in value)
    need(is_names, "classes", "a list of names or null")
    return tuple(value)  # type: ignore[arg-type]  # checked above


def _task(value: object) -> str:
    need(isinstance(value, str) and value in TASKS, "task", f"one of {', '.join(TASKS)}")
    return str(value)


def _deployment(value: object, models: Mapping[str, str]) -> Deployment:
    if value is None:
        return Deployment()
    fields = mapping(value, "deployment")
    model, precision = text(fields.get("model"), "deployment.model"), fields.get("precision")
    need(model in models, "deployment.model", f"one of {', '.join(models)}")
    need(precision is None or isinstance(precision, str), "deployment.precision", "a text or null")
    return Deployment(model, text(fields.get("runtime"), "deployment.runtime"), precision)


def _cascade(
    value: object, files: Mapping[str, FileEntry], spec: ModelSpec
) -> CascadeManifest | None:
    if value is None:
        return None
    need(len(spec.outputs) == 1, "spec.outputs", "one tensor where there is a cascade")
    for i, tensor in enumerate(spec.inputs):  # samples that leave are taken out of every input
        batched = tensor.shape[:1] == (None,)
        need(batched, f"spec.inputs[{i}].shape", "null first, for the batch, under a cascade")
    return parse_cascade(value, files)
