"""Typed settings from YAML files: every mistake of a file at once, in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

MAX_BYTES = 1_000_000  # settings are small; a larger file is a mix-up, and slow to parse


class Settings(BaseModel):
    """Base of everything read from YAML: immutable, and an unknown key is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _no_bool(value: object) -> object:
    if isinstance(value, bool):  # YAML reads `yes` as True, and pydantic would read that as 1.0
        raise ValueError("should be a number")
    return value


# A float that may be written `1e-4`, which YAML 1.1 reads as text.
Number = Annotated[float, BeforeValidator(_no_bool)]

M = TypeVar("M", bound=Settings)


class SettingsError(ValueError):
    """What is wrong with a file, in one line; callers raise it as their own error."""


class _Loader(yaml.SafeLoader):
    """yaml.SafeLoader that refuses a key given twice (YAML itself keeps the last one)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 without its numbers to base 60: 2:4 is a pattern of zeros, not 124.
_INTEGER = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$")
_INTEGER_TAG = "tag:yaml.org,2002:int"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, _INTEGER if tag == _INTEGER_TAG else form) for tag, form in known]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse(text: str) -> Any:
    """Read one YAML document; raises SettingsError saying where it is broken."""
    try:
        # _Loader is a SafeLoader: plain data only, no tags that build Python objects.
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise SettingsError(f"{where}{error.problem}") from None
    except RecursionError:
        raise SettingsError("nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # a bad character, an impossible date
        raise SettingsError(" ".join(str(error).split())) from None


def read(path: Path, model: type[M]) -> M:
    """Read ``path`` as ``model``; raises SettingsError with every mistake in the file."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SettingsError(f"larger than {MAX_BYTES} bytes")
        return validate(parse(path.read_text("utf-8")), model)
    except OSError as error:
        raise SettingsError(error.strerror or "cannot be read") from None
    except UnicodeDecodeError:
        raise SettingsError("is not UTF-8 text") from None


def validate(data: Any, model: type[M]) -> M:
    """Check plain data against ``model``; raises SettingsError with every mistake."""
    if not isinstance(data, dict):
        raise SettingsError(f"should be keys with values, not {_kind(data)}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        entries = error.errors(include_url=False)
        # A list whose entries are all mistaken is called too short as well: say the cause only.
        entries = [e for e in entries if e["type"] != "too_short" or not e["input"]]
        raise SettingsError("; ".join(_mistake(entry, model) for entry in entries)) from None


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean X?)"``, or nothing when no known name is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def _kind(data: object) -> str:
    return "an empty file" if data is None else f"a {type(data).__name__}"


def _mistake(entry: ErrorDetails, model: type[BaseModel]) -> str:
    unknown = entry["type"] == "extra_forbidden"
    path, models = _walk(entry["loc"], model, unknown_key=unknown)
    if unknown:
        fields = {name for candidate in models for name in candidate.model_fields}
        return f"{path}: unknown key{nearest(str(entry['loc'][-1]), fields)}"
    if entry["type"] == "missing":
        return f"{path}: is missing"
    if entry["type"] == "literal_error":
        expected = entry["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
        hint = nearest(str(entry["input"]), expected.split(", "))
        return f"{path}: {_show(entry['input'])} is not one of {expected}{hint}"
    if entry["type"].startswith("union_tag"):
        return f"{path}.{_tag_mistake(entry)}"
    if entry["type"] in _PLAIN:
        return f"{path}: {_PLAIN[entry['type']]}, not {_show(entry['input'])}"
    message = entry["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = message.replace("String should match pattern", "should fit the pattern")
    # What keys have to say together names them; their values would only hide it.
    shown = "" if isinstance(entry["input"], dict) else f", not {_show(entry['input'])}"
    return f"{path}: {message}{shown}"


def _tag_mistake(entry: ErrorDetails) -> str:
    """Say what is wrong with the key that tells the kinds of an entry apart."""
    key = entry["ctx"]["discriminator"].replace("'", "")
    if entry["type"] == "union_tag_not_found":
        return f"{key}: is missing"
    tag, expected = entry["ctx"]["tag"], entry["ctx"]["expected_tags"].replace("'", "")
    return f"{key}: {_show(tag)} is not one of {expected}{nearest(tag, expected.split(', '))}"


# pydantic's words for these name Python types, which a YAML author does not see.
_PLAIN = {
    "too_short": "needs at least one entry",
    "tuple_type": "should be a list",
    "model_attributes_type": "should be keys with values",
    "model_type": "should be keys with values",
    "dict_type": "should be keys with values",
    "int_type": "should be a whole number",
    "bool_type": "should be true or false",
    "string_type": "should be text, in quotes if it looks like a number",
}


def _show(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _walk(
    loc: Sequence[int | str], model: type[BaseModel], *, unknown_key: bool
) -> tuple[str, list[type[BaseModel]]]:
    """Return pydantic's location as ``stages[0].distill.epochs`` and the models that hold it.

    Parts that are no field are the keys of a mapping, or the tags which pydantic adds for members
    of a union, but for the last one of an ``unknown_key``.
    """
    path, models, in_mapping = "", [model], False
    for position, part in enumerate(loc):
        if isinstance(part, int):
            path += f"[{part}]"
            continue
        holders = [] if in_mapping else [c for c in models if part in c.model_fields]
        if holders or in_mapping or (unknown_key and position == len(loc) - 1):
            path += f".{_show_key(part)}" if path else _show_key(part)
        in_mapping = any(_is_mapping(c.model_fields[part].annotation) for c in holders)
        if holders and position < len(loc) - 1:
            hints = (candidate.model_fields[part].annotation for candidate in holders)
            models = [found for hint in hints for found in _models_in(hint)]
    return path, models


def _show_key(part: str) -> str:
    return part if part.isidentifier() else _show(part)


def _is_mapping(hint: Any) -> bool:
    return get_origin(hint) is dict or any(map(_is_mapping, get_args(hint)))


def _models_in(hint: Any) -> Iterator[type[BaseModel]]:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        yield hint
    for argument in get_args(hint):
        yield from _models_in(argument)
