import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.target_names import normal, suggest

KNOWN = {
    "jetson-nano": ("jetson-nano",),
    "jetson-orin-nano": ("jetson-orin-nano", "jetson", "orin-nano"),
    "jetson-orin-nx-8gb": ("jetson-orin-nx-8gb", "orin-nx-8gb"),
    "raspberry-pi-4": ("raspberry-pi-4", "pi4", "rpi4"),
    "raspberry-pi-5": ("raspberry-pi-5", "pi5", "rpi5"),
    "t4": ("t4", "tesla-t4"),
}
TITLES = {name: "NVIDIA Jetson" if "jetson" in name else "Another" for name in KNOWN} | {
    "t4": "NVIDIA T4 GPU"
}


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("orin", " (which one: jetson-orin-nano, jetson-orin-nx-8gb?)"),
        ("nano", " (which one: jetson-nano, jetson-orin-nano?)"),
        ("pi", " (which one: raspberry-pi-4, raspberry-pi-5?)"),
        ("rpi", " (which one: raspberry-pi-4, raspberry-pi-5?)"),
        (
            "nvidia-jetson",
            " (which one: jetson-nano, jetson-orin-nano, jetson-orin-nx-8gb?)",
        ),
        ("orin-nx", " (did you mean jetson-orin-nx-8gb?)"),
        ("gpu", " (did you mean t4?)"),
        ("jetsn", " (did you mean jetson?)"),
        ("jetson-orin-nan", " (did you mean jetson-orin-nano?)"),  # not one of all that fit
        ("rasberry-pi", " (did you mean raspberry-pi-5?)"),
        ("coffee", ""),
        ("", ""),
        ("-", ""),
    ],
)
def test_suggestions(wanted: str, hint: str) -> None:
    assert suggest(wanted, KNOWN, TITLES) == hint


@pytest.mark.parametrize("given_name", ["RTX 4090", "rtx_4090", " Rtx-4090 "])
def test_ways_to_write_a_name(given_name: str) -> None:
    assert normal(given_name) == "rtx-4090"


@given(st.text(max_size=30))
def test_any_text_is_answered_in_one_line(text: str) -> None:
    hint = suggest(normal(text), KNOWN, TITLES)
    assert hint == "" or (hint.startswith(" (") and hint.endswith("?)") and "\n" not in hint)
