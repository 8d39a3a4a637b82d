"""Check the symbolic shape expressions of a torch.export file before torch evaluates them.

torch rebuilds them with ``sympy.sympify``, which is ``eval`` on a string from the file. What torch
writes is sympy's ``srepr``: ``Symbol('s0', positive=True, integer=True)``, ``Add(...)``; older
versions wrote ``s0 + 1``. Only these shapes pass.
"""

from __future__ import annotations

import ast
import re

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_LONGEST = 20_000
_LARGEST_EXPONENT = 64
# sympy's own constructors in srepr, and the functions that torch adds (the exporter's table
# `sympy_functions` in torch/_export/serde/serialize.py). All of them only build expressions.
_CONSTRUCTORS = (
    "Symbol Integer Float Rational Add Mul Pow Max Min Mod Abs floor ceiling Equality "
    "Unequality StrictLessThan LessThan StrictGreaterThan GreaterThan Eq Ne Lt Le Gt Ge "
    "And Or Not Piecewise ExprCondPair Tuple FloorDiv ModularIndexing Where PythonMod "
    "CleanDiv CeilToInt FloorToInt CeilDiv LShift RShift PowByNatural FloatPow "
    "FloatTrueDiv IntTrueDiv IsNonOverlappingAndDenseIndicator TruncToFloat TruncToInt "
    "RoundToInt RoundDecimal ToFloat Identity "
)
_FUNCTIONS = frozenset(_CONSTRUCTORS.split())
_OPERATORS = (
    ast.operator,
    ast.unaryop,
    ast.cmpop,
    ast.Load,
    ast.UnaryOp,
    ast.BinOp,
    ast.Compare,
    ast.Tuple,
    ast.keyword,
)


def is_safe_expression(text: str) -> bool:
    """Tell whether ``text`` is plain arithmetic on symbols and numbers.

    Names, numbers, arithmetic, comparisons and calls to known constructors pass; attributes,
    subscripts, strings other than a symbol's name, lambdas and everything else do not.
    """
    if len(text) > _LONGEST:
        return False
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    named = {id(text) for node in ast.walk(tree) for text in _quoted(node)}
    return all(_allowed(node, named) for node in ast.walk(tree.body))


def is_name(text: str) -> bool:
    """Tell whether ``text`` is a plain identifier that cannot reach into Python's internals."""
    return _NAME.fullmatch(text) is not None


def _allowed(node: ast.AST, named: set[int]) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=function)):
            return function in _FUNCTIONS and not _is_huge_power(function, node.args)
        case ast.BinOp(op=ast.Pow(), right=right):
            return not _is_huge(right)
        case ast.Name(id=name):
            return is_name(name)
        case ast.Constant(value=str()):
            return id(node) in named
        case ast.Constant(value=value):
            return isinstance(value, int | float)
        case _:
            return isinstance(node, _OPERATORS)


def _quoted(node: ast.AST) -> list[ast.Constant]:
    """Return the string arguments that srepr writes: ``Symbol('s0')`` and ``Float('0.5')``."""
    match node:
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(text)) as constant]):
            return [constant] if is_name(text) else []
        case ast.Call(func=ast.Name(id="Float"), args=[ast.Constant(value=str(text)) as constant]):
            return [constant] if re.fullmatch(r"[-+.0-9e]{1,40}", text) else []
    return []


def _is_huge_power(function: str, arguments: list[ast.expr]) -> bool:
    return function in ("Pow", "PowByNatural", "LShift") and any(map(_is_huge, arguments[1:]))


def _is_huge(exponent: ast.expr) -> bool:
    """An exponent that would keep sympy busy for ever: a large number, or a tower of powers."""
    for node in ast.walk(exponent):
        match node:
            case ast.Constant(value=int() | float() as value) if abs(value) > _LARGEST_EXPONENT:
                return True
            case ast.BinOp(op=ast.Pow()):
                return True
    return False
