"""Check the graph of a torch.export archive: the JSON that torch turns into executed Python."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from edgekd.model.expressions import is_name, is_safe_expression

# Operators that only compute. Everything else that torch would look up by dotted path is refused:
# `_operator.call` and `_operator.methodcaller` together reach any method of any object.
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed|torchvision)"
    r"\.((?!__)\w+|__(and|or|xor|lshift|rshift)__)\.(?!_)\w+"
    r"|torch\.ops\.higher_order\.(cond|map_impl|scan|while_loop|wrap_with_(set_grad_enabled|autocast))"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt)|torch\.(_)?sym_(?!_)\w+"
)
_TOUCHES_FILES = re.compile(r"torch\.ops\.aten\.(from_file|save|load)\b.*")
_TREE_TYPES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})
_IDENTIFIERS = ("name", "as_name", "user_input_name")
_PATHS = ("fqn", "parameter_name", "buffer_name", "tensor_constant_name")


def find_unsafe(program: Any) -> str | None:
    """Return what is not safe in an archive's ``models/model.json``, or None.

    torch executes Python source made from this: names must be names, operators known ones, and
    expressions plain arithmetic.
    """
    for symbol in program["range_constraints"]:
        if not is_safe_expression(symbol):
            return f"the symbol {symbol[:60]!r}"
    for key, value in _walk(program):
        if problem := _problem(key, value):
            return problem
    return None


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every (key, value) of every dict, at any depth; list entries as ("", entry)."""
    stack = [value]
    while stack:
        current = stack.pop()
        if isinstance(current, dict):
            pairs = list(current.items())
            # Keys become dictionary keys and names too: check them like any other string.
            yield from (("", key) for key in current)
        else:
            pairs = [("", entry) for entry in current] if isinstance(current, list) else []
        yield from pairs
        stack.extend(entry for _, entry in pairs)


def _problem(key: str, value: Any) -> str | None:  # noqa: PLR0911 - one line for each rule
    if key == "expr_str" and not is_safe_expression(str(value)):
        return f"the shape expression {str(value)[:60]!r}"
    if key in ("target", "as_operator") and not _is_operator(str(value)):
        return f"the operator {str(value)[:60]!r}"
    if key in _IDENTIFIERS and not _is_identifier(value):
        return f"the name {str(value)[:60]!r}"
    if key in _PATHS and re.search(r"[\"'\\\x00-\x1f]", str(value)):
        return f"the name {str(value)[:60]!r}"
    if key == "forward_arg_names" and not all(map(_is_identifier, value or [])):
        return "an argument name that is not a name"
    if key in ("in_spec", "out_spec") and not _is_plain_tree(json.loads(value)[1], key):
        return "inputs or outputs that are not tuples, lists and dicts of tensors"
    if key in ("as_custom_obj", "custom_obj", "custom_obj_values") and value:
        return "a custom object"
    # A carriage return would end the comment that a stack trace becomes in the generated source.
    if isinstance(value, str) and re.search(r"[\x00-\x08\x0b-\x1f]", value):
        return "control characters"
    return None


def _is_operator(target: str) -> bool:
    return bool(_OPERATOR.fullmatch(target)) and not _TOUCHES_FILES.fullmatch(target)


def _is_identifier(value: Any) -> bool:
    """Names of nodes and arguments; torch also writes empty ones and None."""
    return value in ("", None) or (isinstance(value, str) and is_name(value.lstrip("_") or "x"))


def _is_plain_tree(tree: Any, key: str) -> bool:
    context = json.loads(tree["context"]) if tree["context"] else None
    if tree["type"] not in _TREE_TYPES or not _is_plain_context(context, key):
        return False
    return all(_is_plain_tree(child, key) for child in tree["children_spec"])


def _is_plain_context(context: Any, key: str) -> bool:
    """A dict's context is the list of its keys; keyword arguments become names in the source."""
    if context is None:
        return True
    if not isinstance(context, list):
        return False
    if key == "in_spec":
        return all(_is_identifier(entry) for entry in context)
    return all(isinstance(entry, str | int) for entry in context)
