"""What lands in a user's site-packages when the wheel is installed."""

from __future__ import annotations

import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True, timeout=120)
    (path,) = out.glob("*.whl")
    return zipfile.Path(path)


def files(folder: zipfile.Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_only_our_names_land_in_site_packages(wheel: zipfile.Path) -> None:
    metadata = {name for name in files(wheel) if name.endswith(".dist-info")}
    assert len(metadata) == 1
    assert files(wheel) - metadata == {"edgekd", "edgekd_cli", "edgekd_hardware"}


@pytest.mark.parametrize("kind", ["devices", "recipes"])
def test_profiles_are_inside(wheel: zipfile.Path, kind: str) -> None:
    shipped = {path.name for path in (ROOT / "profiles" / kind).iterdir()}
    assert files(wheel / "edgekd" / "_profiles" / kind) == shipped


def test_every_module_is_inside(wheel: zipfile.Path) -> None:
    names = set(wheel.root.namelist())
    for root in (ROOT, ROOT / "cli", ROOT / "hardware"):
        for package in root.glob("edgekd*"):
            for path in package.rglob("*.py"):
                assert path.relative_to(root).as_posix() in names


def test_models_of_the_probe_are_inside(wheel: zipfile.Path) -> None:
    shipped = {path.name for path in (ROOT / "hardware" / "edgekd_hardware" / "models").iterdir()}
    assert files(wheel / "edgekd_hardware" / "models") == shipped


def test_templates_of_deploy_are_inside(wheel: zipfile.Path) -> None:
    shipped = {path.name for path in (ROOT / "edgekd" / "deploy" / "cpp_project").iterdir()}
    assert files(wheel / "edgekd" / "deploy" / "cpp_project") == shipped


def test_types_command_and_license(wheel: zipfile.Path) -> None:
    for package in ("edgekd", "edgekd_cli", "edgekd_hardware"):
        assert (wheel / package / "py.typed").is_file()
    (metadata,) = (path for path in wheel.iterdir() if path.name.endswith(".dist-info"))
    parser = configparser.ConfigParser()
    parser.read_string((metadata / "entry_points.txt").read_text("utf-8"))
    assert dict(parser["console_scripts"]) == {"edgekd": "edgekd_cli.app:main"}
    assert "Apache License" in (metadata / "licenses" / "LICENSE").read_text("utf-8")


def test_the_installed_wheel_finds_its_data(wheel: zipfile.Path, tmp_path: Path) -> None:
    """Unpacked in an empty folder, as pip does, and run from elsewhere."""
    wheel.root.extractall(tmp_path / "site")
    code = "from edgekd.device import data_root, list_profiles; print(data_root()); list_profiles()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == tmp_path / "site" / "edgekd" / "_profiles"


def test_constraints_cover_the_requirements() -> None:
    """Every direct dependency has an exact tested version."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines if line and not line.startswith("#")}
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(line for extra in extras for line in extra)]
    names = {line.replace(">", "=").partition("=")[0].strip().lower() for line in wanted}
    assert names <= pinned
