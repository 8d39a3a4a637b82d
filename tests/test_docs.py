"""The documentation, held to the code: links, paths, commands, Python code, recipes, settings."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from edgekd_cli.app import app

from edgekd.device import DeviceProfile, list_profiles, load_profile
from edgekd.distillation.losses import build_term
from edgekd.distillation.term import Pairing, Side
from edgekd.loss_settings import LossSettings
from edgekd.recipe import (
    Calibration,
    EarlyExitStage,
    PruneStage,
    QuantizeStage,
    SparsifyStage,
    Synthesis,
    load_recipe,
)
from edgekd.training_settings import Distill, DistillStage, Recovery

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PAGE = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# Paths are shown as they stand in a checkout, from its root.
FOLDERS = "edgekd|cli|hardware|profiles|tests|benchmarks|docs|examples|scripts"
SHOWN_PATH = re.compile(rf"`((?:{FOLDERS})/[^`]*)`")


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in FENCE.findall(page.read_text("utf-8")) if kind == language]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives to the page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def command_lines(page: Path) -> Iterator[list[str]]:
    """Yield the arguments of every ``edgekd`` command in the blocks that show a shell."""
    for code in blocks(page, ""):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if line.startswith("edgekd ") else []
            shell = [i for i, word in enumerate(words) if word in ("|", "||", "&&", ">", ";")]
            if words:
                yield words[1 : shell[0] if shell else None]


@cache
def edgekd() -> Any:
    return typer.main.get_command(app)


def find_command(arguments: list[str]) -> tuple[Any, list[str]]:
    """Return the command that the words name, and the words behind its name."""
    command = edgekd()
    while arguments and arguments[0] in getattr(command, "commands", {}):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    return command, arguments


@PAGE
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        place, _, anchor = link.partition("#")
        if "://" in place:
            continue
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


@PAGE
def test_shown_paths_exist(page: Path) -> None:
    for path in SHOWN_PATH.findall(prose(page)):
        if "NAME" not in path and path != "edgekd/_profiles":  # made when a wheel is built
            assert (ROOT / path).exists(), f"{page.name} shows {path}"


@PAGE
def test_shown_commands_are_accepted(page: Path) -> None:
    for arguments in command_lines(page):
        command, rest = find_command(arguments)
        try:  # parses and checks the options; runs nothing
            command.make_context("edgekd", list(rest))
        except Exception as error:
            pytest.fail(f"{page.name}: edgekd {shlex.join(arguments)}: {error}")


@PAGE
def test_options_in_the_text_exist(page: Path) -> None:
    for text in re.findall(r"`edgekd ([^`]+)`", prose(page)):
        command, rest = find_command(text.split())
        known = {option for parameter in command.params for option in parameter.opts}
        used = {word for word in rest if word.startswith("-")}
        assert used <= known | {"--help"}, f"{page.name}: edgekd {text}"
        unknown = hasattr(command, "commands") and rest and rest[0][0].islower()
        assert not unknown, f"{page.name}: edgekd has no command {text}"


def test_every_option_is_documented() -> None:
    text = (ROOT / "docs" / "command-line.md").read_text("utf-8")
    commands = edgekd().commands
    for name, command in commands.items():
        assert f"`edgekd {name}" in text
        for parameter in command.params:
            for option in (o for o in parameter.opts if o.startswith("--") and o != "--help"):
                assert re.search(rf"{option}\b", text), f"{name} {option}"


@PAGE
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    text = page.read_text("utf-8")
    named = re.findall(r"`make ([a-z-]+)`", text) + re.findall(r"^make ([a-z-]+)", text, re.M)
    assert set(named) <= targets


@PAGE
def test_python_compiles(page: Path) -> None:
    for number, code in enumerate(blocks(page, "python")):
        compile(code, f"{page.name}:block {number}", "exec")


@PAGE
def test_recipes_and_profiles_load(page: Path, tmp_path: Path) -> None:
    for number, text in enumerate(blocks(page, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text, "utf-8")
        if page.name == "devices.md":
            load_profile(str(file))
        else:
            load_recipe(str(file))


def test_every_field_of_a_profile_is_documented() -> None:
    text = (ROOT / "docs" / "devices.md").read_text("utf-8")
    rows = set(re.findall(r"^\| `(\w+)` \|", text.partition("## Your own")[0], re.MULTILINE))
    assert rows == set(DeviceProfile.model_fields)


def test_the_table_of_devices_is_that_of_the_profiles() -> None:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:,g}"

    text = (ROOT / "docs" / "devices.md").read_text("utf-8").partition("## What is shipped")[2]
    shown = [line for line in text.splitlines() if line.startswith("| `")]
    expected = []
    for profile in list_profiles():
        pays = {"none": "no INT8", "slow": "slow"}
        cells = (
            f"`{profile.name}`",
            ", ".join(f"`{alias}`" for alias in profile.aliases) or "-",
            ", ".join(profile.runtimes),
            str(profile.opset),
            number(profile.float_gmacs),
            pays.get(profile.int8, number((profile.peak_gmacs or {}).get("int8"))),
            number(profile.memory_gib),
            number(profile.memory_gb_per_s),
        )
        expected.append(f"| {' | '.join(cells)} |")
    assert shown == expected


def test_recipe_page_shows_the_shipped_default(tmp_path: Path) -> None:
    file = tmp_path / "shown.yaml"
    file.write_text(blocks(ROOT / "docs" / "recipes.md", "yaml")[0], "utf-8")

    assert load_recipe(str(file)) == load_recipe("int8-distilled")


@pytest.mark.parametrize(
    ("section", "settings", "prefix"),
    [
        ("## Keys", Synthesis, "synthesis."),
        ("### `stage: quantize`", QuantizeStage, ""),
        ("### `stage: quantize`", Calibration, "calibration."),
        ("### `stage: quantize`", Distill, "distill."),
        ("### `stage: distill`", DistillStage, ""),
        ("### `stage: prune`", PruneStage, ""),
        ("### `stage: sparsify`", SparsifyStage, ""),
        ("### `stage: early_exit`", EarlyExitStage, ""),
    ],
)
def test_every_recipe_key_is_documented_with_its_default(
    section: str, settings: Any, prefix: str
) -> None:
    rows = documented_defaults(section)
    for name, field in settings.model_fields.items():
        if name in ("stage", "calibration"):
            continue
        default = field.default
        shown = rows[f"{prefix}{name}"].strip()
        if isinstance(default, bool):
            assert shown == str(default).lower()
        elif name not in ("distill", "joint", "heads", "operating_points"):
            plain = list(default) if isinstance(default, tuple) else default
            assert shown == ("null" if plain is None else str(plain)), name


def test_every_loss_is_documented_with_its_needs_and_defaults() -> None:
    text = (ROOT / "docs" / "distillation.md").read_text("utf-8").partition("## Losses")[2]
    rows = re.findall(r"^\| `([\w-]+)` \| ([^|]*) \| ([^|]*) \|", text, re.MULTILINE)
    shown = {name: (set(re.findall(r"[\w-]+", needs)), cell) for name, needs, cell in rows[1:]}
    expected = {}
    side = Side(10, ((10,),), ((16, 4, 4),) * 3)
    heads = Side(10, ((10,),), ((2, 7, 12), (2, 12, 7), (2, 7, 12)))
    for kind in get_args(get_args(LossSettings)[0]):
        (name,) = get_args(kind.model_fields["loss"].annotation)
        keys = {k: f.default for k, f in kind.model_fields.items() if k != "loss"}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in keys.items()}
        cells = ", ".join(f"`{k}: {shown_value(v)}`" for k, v in plain.items())
        shown_to = heads if name == "minilm" else side
        pair = Pairing(shown_to, shown_to, 100, (3, 32, 32), itself=True)
        needs = build_term(kind(loss=name), pair).needs
        expected[name] = (set(needs) or {"nothing"}, cells)
    assert shown == expected


def shown_value(value: Any) -> str:
    plain = {"None": "null", "False": "false", "True": "true"}
    return plain.get(str(value), str(value))


@pytest.mark.parametrize("stage", ["prune", "sparsify"])
def test_training_of_a_smaller_model_differs_as_documented(stage: str) -> None:
    rows = documented_defaults(f"### `stage: {stage}`")
    changed = {
        f"distill.{name}": "null" if field.default is None else str(field.default)
        for name, field in Recovery.model_fields.items()
        if field.default != Distill.model_fields[name].default
    }
    assert {key: text for key, text in rows.items() if key.startswith("distill.")} == changed


def test_training_of_early_exits_differs_as_documented() -> None:
    stage = EarlyExitStage(stage="early_exit")
    rows = documented_defaults("### `stage: early_exit`")
    for name in ("joint", "heads"):
        training = getattr(stage, name)
        changed = {
            f"{name}.{key}": "null" if value is None else str(value)
            for key, field in Distill.model_fields.items()
            if (value := getattr(training, key)) != field.default
        }
        assert {key: text for key, text in rows.items() if key.startswith(f"{name}.")} == changed
    points = [(point.name, str(point.max_drop)) for point in stage.operating_points]
    text = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    for key, values in zip(("name", "max_drop"), zip(*points, strict=True), strict=True):
        shown = ", ".join(f"`{value}`" for value in values)
        assert f"| `operating_points[].{key}` | {shown} |" in text


def documented_defaults(section: str) -> dict[str, str]:
    """Return the default of every key in one section of the page about recipes."""
    text = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    start = text.index(f"{section}\n") + len(section)
    ends = [found.start() for found in re.finditer(r"^#", text, re.MULTILINE)]
    end = min((place for place in ends if place > start), default=len(text))
    row = re.compile(r"^\| `([\w.]+)` \| `?([^`|]*)`? \|", re.MULTILINE)
    return dict(row.findall(text[start:end]))


def test_architecture_draws_the_rows_that_the_tests_enforce() -> None:
    tree = ast.parse((ROOT / "tests" / "test_rooms.py").read_text("utf-8"))
    (rows,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ROWS"
    )
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    drawn = re.findall(r"^\| \d+ \| ([^|]+) \|", page, re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", cell)) for cell in drawn] == list(rows)


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_compile(script: Path) -> None:
    compile(script.read_text("utf-8"), script.name, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_run(script: Path, run_python: Any, tmp_path: Path) -> None:
    done = run_python(str(script), str(tmp_path / "work"))

    assert done.returncode == 0, done.stderr
    assert "checks: passed" in done.stdout
