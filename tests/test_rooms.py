"""Who may import whom, read from the code itself; docs/architecture.md draws the same rules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "edgekd": ROOT / "edgekd",
    "edgekd_hardware": ROOT / "hardware" / "edgekd_hardware",
    "edgekd_cli": ROOT / "cli" / "edgekd_cli",
}

# Rooms of edgekd from the bottom up; a room imports from rooms below its own row, or itself.
ROWS = (
    {"errors"},
    {
        "progress",
        "spec",
        "preprocessing",
        "settings",
        "metrics",
        "cache",
        "target_names",
        "processes",
    },
    {"device", "recipe", "training_settings", "loss_settings"},
    {"algorithms"},
    {"model", "data"},
    {"graph"},
    {"quantize", "sparse", "synthesis", "exits"},
    {"runtime"},
    {"engine"},
    {"bench"},
    {"export"},
    {"predict"},
    {"prune"},
    {"advice", "distillation", "training"},
    {"state"},
    {"stages"},
    {"job"},
    {"steps"},
    {"choice", "cascade"},
    {"summary"},
    {"report"},
    {"evaluate"},
    {"building", "deploy", "signing"},
    {"gate"},
    {"pipeline", "demo"},
)
LEVEL = {room: level for level, rooms in enumerate(ROWS) for room in rooms}
INSIDE_A_ROW = {
    ("recipe", "device"),
    ("recipe", "loss_settings"),
    ("recipe", "training_settings"),
    ("training_settings", "loss_settings"),
    ("data", "model"),
    ("cache", "processes"),
}

ON_DEVICE = {"errors", "progress", "spec", "preprocessing", "runtime", "engine"}
WITHOUT_TORCH = {
    "errors",
    "device",
    "recipe",
    "training_settings",
    "loss_settings",
    "target_names",
    "settings",
    "metrics",
    "runtime",
    "engine",
    "building",
    "deploy",
    "signing",
    "bench",
    "evaluate",
    "gate",
}
HEAVY = {"torch", "onnx", "onnxscript", "pydantic", "sklearn"}
OPTIONAL = {"tensorrt", "tensorrt_rtx", "openvino", "nncf", "torchao", "pynvml", "cryptography"}


def modules() -> list[tuple[str, Path]]:
    return [
        (".".join((package, *path.relative_to(root).with_suffix("").parts)), path)
        for package, root in PACKAGES.items()
        for path in sorted(root.rglob("*.py"))
    ]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imports(path: Path, *, top_level: bool = False) -> Iterator[str]:
    """Yield the dotted names that a file imports, inside functions and TYPE_CHECKING as well."""
    for node in tree(path).body if top_level else ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str | None:
    """Return the room of ``edgekd.model.load`` ("model"); None for the package itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "edgekd" and len(parts) > 1 and parts[1] in LEVEL else None


ALL = modules()


def test_packages_import_downwards() -> None:
    order = list(PACKAGES)
    for module, path in ALL:
        own = order.index(module.split(".", maxsplit=1)[0])
        for name in imports(path):
            top = name.split(".")[0]
            assert top not in order or order.index(top) <= own, f"{module} imports {name}"


def test_rooms_import_downwards() -> None:
    for module, path in ALL:
        own = room(module)
        if own is None:
            continue
        for name in imports(path):
            other = room(name)
            if other in (None, own) or (own, other) in INSIDE_A_ROW:
                continue
            assert LEVEL[other] < LEVEL[own], f"{module} imports {name}"


def test_every_module_has_a_room() -> None:
    found = {name.split(".")[1] for name, _ in ALL if name.startswith("edgekd.")}
    assert found - {"__init__"} <= set(LEVEL)


def test_heavy_packages_stay_where_they_belong() -> None:
    for module, path in ALL:
        own, names = room(module), {name.split(".")[0] for name in imports(path)}
        if own in ("runtime", "bench"):
            assert not names & HEAVY, module
            used = {other for name in imports(path) if (other := room(name))}
            assert used <= ON_DEVICE | {own}, f"{module} imports {used}"
        if own in WITHOUT_TORCH:
            assert "torch" not in names, module
        assert not {name.split(".")[0] for name in imports(path, top_level=True)} & OPTIONAL, module


def test_only_the_command_line_prints() -> None:
    for module, path in ALL:
        if module.startswith("edgekd_cli"):
            continue
        assert not {"typer", "rich"} & {name.split(".")[0] for name in imports(path)}, module
        calls = (node.func for node in ast.walk(tree(path)) if isinstance(node, ast.Call))
        assert not [f for f in calls if isinstance(f, ast.Name) and f.id == "print"], module


def test_the_system_is_read_in_one_room() -> None:
    for module, path in ALL:
        # The latter names the processor of every measurement, on boards as well.
        if module.startswith("edgekd_hardware") or module == "edgekd.bench.machine":
            continue
        text = path.read_text("utf-8")
        for word in ('"/proc', '"/sys', "nvpmodel"):
            assert word not in text, f"{module} reads {word}"
