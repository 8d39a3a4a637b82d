from pathlib import Path

import pytest
from pydantic import ValidationError

from edgekd.device import announce, data_root, list_profiles, load_profile
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
        ("Orin Nano", "jetson-orin-nano"),
        ("jetson_orin_nx_16gb", "jetson-orin-nx-16gb"),
        ("thor", "jetson-thor"),
        ("RTX 4090", "rtx-4090"),
    ],
)
def test_names_and_aliases(given: str, name: str) -> None:
    assert load_profile(given).name == name


def test_names_are_unambiguous() -> None:
    names = [name for profile in list_profiles() for name in (profile.name, *profile.aliases)]
    assert len(names) == len(set(names))


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ProfileError, match=r"did you mean jetson-orin-nano\?.*`edgekd targets`"):
        load_profile("jetson-orin-nan")


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("agx", {"jetson-agx-orin-32gb", "jetson-agx-orin-64gb", "jetson-agx-xavier"}),
        ("orin", {"jetson-orin-nano", "jetson-orin-nx-8gb", "jetson-agx-orin-64gb"}),
        ("orin-nx", {"jetson-orin-nx-8gb", "jetson-orin-nx-16gb"}),
        ("pi", {"raspberry-pi-4", "raspberry-pi-5"}),
        ("rpi", {"raspberry-pi-4", "raspberry-pi-5"}),
        ("nvidia-jetson", {"jetson-nano", "jetson-thor", "jetson-xavier-nx"}),
    ],
)
def test_an_ambiguous_word_lists_what_it_fits(word: str, names: set[str]) -> None:
    with pytest.raises(ProfileError, match="which one: ") as caught:
        load_profile(word)
    listed = str(caught.value).partition("which one: ")[2].partition("?")[0].split(", ")
    assert names <= set(listed) and "cpu" not in listed


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("jetson", "target jetson: jetson-orin-nano, NVIDIA Jetson Orin Nano 8GB with TensorRT"),
        ("cpu", "target cpu: x86-64 computer with ONNX Runtime"),
    ],
)
def test_what_a_name_stands_for_is_said_in_one_line(given: str, line: str) -> None:
    assert announce(given, load_profile(given)) == line


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
    assert "compute_capability: should be text, in quotes if it looks like a number" in message
    assert "'opsett' is not a field of the profile (did you mean opset?)" in message
    assert "updated: " in message


def test_mistakes_inside_entries_and_between_fields_are_named_together(tmp_path: Path) -> None:
    path = tmp_path / "board.yaml"
    path.write_text(
        "name: My Board\ntitle: My board\nupdated: 2026-01-02\nruntime: onnxruntime\nopset: 17\n"
        "runtimes: [tensorrt]\nfloat_type: float16\nint8: quick\n"
        "peak_gmacs: {flaot16: 3, int8: -1}\n"
        'cpu_flags: [asimd, "asimddp|i8mm"]\nabsent_cpu_flags: [asimd, asimddp, i8mm]\n'
        "power_modes: [{id: 0, name: a}, {id: 1, name: b, wats: 3}, {id: -1}]\n"
        'software: [{jetpack: 5.1, tensorrt: "8.x"}]\n'
    )
    with pytest.raises(ProfileError) as caught:
        load_profile(str(path))
    message = str(caught.value)
    assert "\n" not in message
    for mistake in (
        "name: should fit the pattern",
        "runtimes: needs onnxruntime or openvino, which reads what is written for runtime: onnx",
        "float_type: float16 needs runtime: tensorrt",
        "int8: 'quick' is not one of fast, slow, none",
        "peak_gmacs.flaot16: 'flaot16' is not one of float32, tf32, ",
        "(did you mean float16?)",
        "peak_gmacs.int8: should be greater than 0, not -1",
        "absent_cpu_flags: asimd, asimddp|i8mm is in cpu_flags too",
        "power_modes[1].wats: unknown key (did you mean watts?)",
        "power_modes[2].id: should be greater than or equal to 0, not -1",
        "power_modes[2].name: is missing",
        "software[0].jetpack: should be text, in quotes if it looks like a number, not 5.1",
        "software[0].tensorrt: should fit the pattern",
    ):
        assert mistake in message, mistake


@pytest.mark.parametrize(
    ("field", "mistake"),
    [
        ("power_modes: [{id: 0, name: a}, {id: 0, name: a}]", "id 0 and name a given twice"),
        (
            'software: [{jetpack: "6.0", tensorrt: "8.6"}, {jetpack: "6.0", tensorrt: "10.3"}]',
            "jetpack 6.0 given twice",
        ),
        ("peak_gmacs: {}", "peak_gmacs: needs at least one entry"),
        ("sources: {opsett: a, thread: b}", "(did you mean opset?); key 'thread' is not a field"),
        ("sources: {opset: 3}", "sources.opset: should be text"),
    ],
)
def test_mistakes_of_one_field(tmp_path: Path, field: str, mistake: str) -> None:
    path = tmp_path / "board.yaml"
    path.write_text(f"{MINIMAL}{field}\n")
    with pytest.raises(ProfileError) as caught:
        load_profile(str(path))
    assert mistake in str(caught.value)


def test_openvino_reads_what_is_written_for_onnx_runtime(tmp_path: Path) -> None:
    path = tmp_path / "board.yaml"
    text = MINIMAL.replace("tensorrt", "onnxruntime")
    path.write_text(f"{text}runtimes: [openvino]\ncpu_flags: [a, b|c]\nabsent_cpu_flags: [c]\n")
    assert load_profile(str(path)).runtimes == ("openvino",)


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
