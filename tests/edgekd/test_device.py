from pathlib import Path

import pytest
from pydantic import ValidationError

from edgekd.device import data_root, list_profiles, load_profile
from edgekd.errors import ProfileError

MINIMAL = "name: board\ntitle: My board\nupdated: 2026-01-02\nruntime: tensorrt\nopset: 17\n"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("cpu", "cpu"),
        ("x86", "cpu"),
        ("jetson", "jetson-orin-nano"),
        ("JETSON", "jetson-orin-nano"),
        ("jetson-jetpack7", "jetson-orin-nano-jetpack7"),
        ("pi5", "raspberry-pi-5"),
        ("raspberry-pi", "raspberry-pi-5"),
    ],
)
def test_names_and_aliases(given: str, name: str) -> None:
    assert load_profile(given).name == name


def test_names_are_unambiguous() -> None:
    names = [name for profile in list_profiles() for name in (profile.name, *profile.aliases)]
    assert len(names) == len(set(names))


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ProfileError, match=r"did you mean jetson-orin-nano\?.*cpu, jetson"):
        load_profile("jetson-orin-nan")


def test_own_file_with_defaults(tmp_path: Path) -> None:
    path = tmp_path / "board.yaml"
    path.write_text(MINIMAL)
    profile = load_profile(str(path))
    assert (profile.name, profile.threads, profile.recipe) == ("board", 1, "int8-distilled")
    with pytest.raises(ValidationError, match="frozen"):
        profile.opset = 20  # type: ignore[misc]


@pytest.mark.parametrize(("runtime", "opset"), [("onnxruntime", 20), ("tensorrt", 18)])
def test_float16_needs_tensorrt_and_a_new_opset(tmp_path: Path, runtime: str, opset: int) -> None:
    path = tmp_path / "board.yaml"
    own = MINIMAL.replace("tensorrt", runtime).replace("17", str(opset))
    path.write_text(f"{own}float_type: float16\n")
    with pytest.raises(ProfileError, match="float16 needs runtime: tensorrt and opset: 19"):
        load_profile(str(path))


def test_every_mistake_is_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "board.yaml"
    path.write_text(
        "name: board\ntitle: My board\nupdated: soon\nruntime: tensorflow\nopset: 9\n"
        "thread: 2\ncompute_capability: 8.7\nsources: {opsett: somewhere}\n"
    )
    with pytest.raises(ProfileError) as caught:
        load_profile(str(path))
    message = str(caught.value)
    assert "\n" not in message
    assert "thread: unknown key (did you mean threads?)" in message
    assert "runtime: 'tensorflow' is not one of onnxruntime, tensorrt" in message
    assert "opset: should be greater than or equal to 13, not 9" in message
    assert "compute_capability: should be a valid string, not 8.7" in message
    assert "'opsett' is not a field of the profile (did you mean opset?)" in message
    assert "updated: " in message


@pytest.mark.parametrize("text", ["", "- a", "a: [", "a: \x00", "a: 1\na: 2", "a: 2026-13-45"])
def test_broken_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "board.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=r"board\.yaml: "):
        load_profile(str(path))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b" " * 1_000_001])
def test_files_that_are_no_settings(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "board.yaml"
    path.write_bytes(content)
    with pytest.raises(ProfileError, match=r"UTF-8|larger than"):
        load_profile(str(path))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="No such file"):
        load_profile("./nowhere/board.yaml")
    with pytest.raises(ProfileError, match="directory"):
        load_profile(str(tmp_path))


def test_yaml_cannot_build_objects(tmp_path: Path) -> None:
    path = tmp_path / "board.yaml"
    path.write_text("name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ProfileError, match="could not determine a constructor"):
        load_profile(str(path))


def test_data_root_holds_the_shipped_data() -> None:
    assert (data_root() / "devices").is_dir()
    assert (data_root() / "recipes").is_dir()
