"""Everything that edgekd ships as data loads, and says where its figures come from."""

import pytest

from edgekd.device import DeviceProfile, data_root, list_profiles, load_profile
from edgekd.recipe import check_recipe, list_recipes, load_recipe

CHOSEN = {"name", "aliases", "title", "updated", "runtime", "recipe", "sources"}  # by edgekd
ISSUE = {  # what has to be there, by the name of its file
    *("jetson-nano", "jetson-xavier-nx", "jetson-agx-xavier", "jetson-orin-nano-4gb"),
    *("jetson-orin-nano", "jetson-orin-nano-super", "jetson-orin-nx-8gb", "jetson-orin-nx-16gb"),
    *("jetson-agx-orin-32gb", "jetson-agx-orin-64gb", "jetson-thor", "t4", "l4", "a10", "a100"),
    *("h100", "h200", "rtx-4090", "raspberry-pi-4", "raspberry-pi-5", "cpu", "cpu-avx2"),
    *("cpu-vnni", "cpu-amx", "arm64", "intel-npu"),
}
# From wide to narrow: a narrower arithmetic is no slower where both are given.
NARROWER = ("float32", "tf32", "float16", "fp8", "fp4"), ("float32", "bfloat16", "int8", "int4")


def profile_names() -> list[str]:
    return sorted(path.stem for path in (data_root() / "devices").iterdir())


def test_the_lists_name_every_file() -> None:
    assert [profile.name for profile in list_profiles()] == profile_names()
    assert list(list_recipes()) == sorted(p.stem for p in (data_root() / "recipes").iterdir())


@pytest.mark.parametrize("name", profile_names())
def test_profile_is_sourced_and_its_recipe_exists(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    stated = {
        field
        for field in DeviceProfile.model_fields
        if getattr(profile, field) not in (None, (), "") or field == "sparse_patterns"
    }
    assert stated - CHOSEN == set(profile.sources)
    check_recipe(load_recipe(profile.recipe), profile)


def test_the_devices_that_were_asked_for_are_there() -> None:
    assert set(profile_names()) >= ISSUE


PROFILES = pytest.mark.parametrize("profile", list_profiles(), ids=lambda p: str(p.name))


@PROFILES
def test_jetsons_have_what_jetsons_have(profile: DeviceProfile) -> None:
    jetson = profile.name.startswith("jetson")
    assert jetson == bool(profile.power_modes) == bool(profile.software)
    assert jetson or profile.dla_cores is None
    if jetson:
        assert profile.architecture == "aarch64"
        assert profile.layer_overhead_us and profile.memory_gb_per_s and profile.float_gmacs
        releases = [tuple(map(int, stack.jetpack.split("."))) for stack in profile.software]
        assert releases == sorted(releases)


@PROFILES
def test_figures_are_plausible(profile: DeviceProfile) -> None:
    rates = profile.peak_gmacs or {}
    for order in NARROWER:
        known = [rates[arithmetic] for arithmetic in order if arithmetic in rates]
        assert known == sorted(known)
    if "int8" in rates and "float16" in rates:
        assert rates["int8"] >= 1.9 * rates["float16"]
    # Multiplications for each byte read: between a small ARM core and a large GPU.
    if profile.float_gmacs and profile.memory_gb_per_s:
        assert 0.3 < profile.float_gmacs / profile.memory_gb_per_s < 500
    assert (profile.compute_capability is None) == (profile.runtime != "tensorrt")


@PROFILES
def test_nvidia_figures_follow_the_compute_capability(profile: DeviceProfile) -> None:
    if profile.compute_capability is None:
        return
    capability, rates = float(profile.compute_capability), profile.peak_gmacs or {}
    assert profile.sparse_patterns == (("2:4",) if capability >= 8 else ())
    assert (profile.int8 == "none") == (capability < 6.1)
    assert not {"tf32", "bfloat16"} & set(rates) or capability >= 8
    assert "fp8" not in rates or capability >= 8.9
    assert "fp4" not in rates or capability >= 10


@PROFILES
def test_the_opset_is_one_that_every_release_reads(profile: DeviceProfile) -> None:
    """docs/operators.md of onnx/onnx-tensorrt in the releases for 8.2, 8.5 and 10.0."""
    newest = {8: 17, 10: 20, 11: 20}
    for stack in profile.software:
        major, minor = map(int, stack.tensorrt.split(".")[:2])
        assert profile.opset <= (13 if (major, minor) < (8, 4) else newest[major])
        if (major, minor) < (8, 6):
            assert profile.layer_norm == "decomposed"
        if profile.float_type == "float16":
            assert major >= 10  # with --stronglyTyped


@PROFILES
def test_profiles_of_a_kind_of_processor_name_it(profile: DeviceProfile) -> None:
    if profile.cpu_flags or profile.absent_cpu_flags:
        assert profile.architecture is not None and profile.runtime == "onnxruntime"


@PROFILES
def test_sources_are_honest(profile: DeviceProfile) -> None:
    for field, source in profile.sources.items():
        assert len(source) > 20, field
        assert "Wikipedia" not in source, field
    if profile.layer_overhead_us is not None:
        assert "an assumption of edgekd" in profile.sources["layer_overhead_us"]
        assert "not measured" in profile.sources["layer_overhead_us"]


@pytest.mark.parametrize("name", list_recipes())
def test_recipe_is_named_like_its_file(name: str) -> None:
    assert load_recipe(name).name == name
