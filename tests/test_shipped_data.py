"""Everything that edgekd ships as data loads, and says where its figures come from."""

import pytest

from edgekd.device import DeviceProfile, data_root, list_profiles, load_profile
from edgekd.recipe import check_recipe, list_recipes, load_recipe

CHOSEN = {"name", "aliases", "title", "updated", "runtime", "recipe", "sources"}  # by edgekd


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
        if getattr(profile, field) not in (None, ()) or field == "sparse_patterns"
    }
    assert stated - CHOSEN == set(profile.sources)
    check_recipe(load_recipe(profile.recipe), profile)


@pytest.mark.parametrize("name", list_recipes())
def test_recipe_is_named_like_its_file(name: str) -> None:
    assert load_recipe(name).name == name
