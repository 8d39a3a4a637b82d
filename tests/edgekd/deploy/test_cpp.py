"""The C++ project: built with the real headers and library, and compared with edgekd.runtime."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from deployable import all_dtypes_model, engine, fields, tensor
from hypothesis import given
from hypothesis import strategies as st

from edgekd.deploy.cpp import ELEMENT_TYPES, deploy_cpp, literal
from edgekd.errors import BundleError
from edgekd.export.bundle import write_bundle
from edgekd.runtime import load
from edgekd.runtime.tensors import DTYPES

Make = Callable[..., Path]
HEADER = "onnxruntime_cxx_api.h"
SYSTEM = (Path("/usr/include/onnxruntime"), Path("/usr/local/include/onnxruntime"))
HOSTILE = 'in=put "é\\?? x'  # quotes, escapes, a trigraph's start, UTF-8


def test_every_dtype_of_a_manifest_has_a_type() -> None:
    assert set(ELEMENT_TYPES) == set(DTYPES.values())


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_literals_are_what_they_stand_for(text: str) -> None:
    shown = literal(text)
    assert shown.isascii() and "\n" not in shown and "??" not in shown
    # Python reads \?, the one escape that it does not share, as two characters.
    plain = eval(f"b{shown}".replace("\\?", "?"))
    assert plain.decode("utf-8") == text


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_names_that_c_cannot_hold(name: str) -> None:
    with pytest.raises(BundleError, match="rename it"):
        literal(name)


def test_what_is_written(make: Make, tmp_path: Path) -> None:
    chosen = {"model": "baseline", "runtime": "openvino", "precision": "bf16"}
    bundle = make(deployment=chosen, engines=[engine()])  # neither is for ONNX Runtime's C++ API
    done = deploy_cpp(bundle, tmp_path / "project")

    found = {p.relative_to(done.folder).as_posix() for p in done.folder.rglob("*") if p.is_file()}
    own = {"main.cpp", "CMakeLists.txt", "README.md", "deployed.json"}
    assert found == {*own, "bundle/model.onnx", "bundle/manifest.json"}
    for name in ("model.onnx", "manifest.json"):
        assert (done.folder / "bundle" / name).read_bytes() == (bundle / name).read_bytes()
    assert "this is the compressed model on ONNX Runtime" in done.notes[0]
    assert "const bool kAsWritten = false;" in (done.folder / "main.cpp").read_text("ascii")
    assert "@" not in (done.folder / "README.md").read_text("utf-8")

    again = deploy_cpp(bundle, tmp_path / "project", model="baseline")
    assert (again.folder / "bundle" / "baseline.onnx").read_bytes().endswith(b"baseline__")
    assert not (again.folder / "bundle" / "model.onnx").exists()


@pytest.fixture(scope="module")
def headers() -> Path:
    """The folder of ONNX Runtime's C++ headers; the Python package has the library alone."""
    given_ = os.environ.get("ONNXRUNTIME_INCLUDE_DIR")
    for folder in (Path(given_),) if given_ else SYSTEM:
        if (folder / HEADER).is_file():
            return folder
    pytest.skip(f"needs {HEADER}: install libonnxruntime-dev, or set ONNXRUNTIME_INCLUDE_DIR")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = {dtype: f"in_{dtype}" for dtype in sorted(ELEMENT_TYPES)} | {"int8": HOSTILE}
    spec = {
        "inputs": [
            tensor("images", "float32", None, 2, 4, 4),
            *(tensor(name, dtype, None, 3) for dtype, name in names.items()),
            tensor("open", "float32", None, None),
        ],
        "outputs": [
            tensor("logits", "float32", None, 1, 4, 4),
            *(tensor(f"out_{dtype}", dtype, None, 3) for dtype in names),
            tensor("open_out", "float32", None, None),
        ],
    }
    target = {"name": "jetson", "runtime": "tensorrt"}
    return write_bundle(
        tmp_path_factory.mktemp("cpp") / "bundle",
        {"model.onnx": all_dtypes_model(names)},
        fields(spec=spec, target=target, models={"compressed": "model.onnx"}),
        overwrite=False,
    )


@pytest.fixture(scope="module")
def program(bundle: Path, headers: Path) -> Path:
    """The program, built once with CMake, without a warning."""
    if shutil.which("cmake") is None:
        pytest.skip("needs cmake")
    project = deploy_cpp(bundle, bundle.parent / "project").folder
    root = Path(onnxruntime.__file__).parent
    build = bundle.parent / "build"
    commands = (
        [
            *("cmake", "-S", str(project), "-B", str(build), "-DCMAKE_CXX_FLAGS=-Werror"),
            *(f"-DONNXRUNTIME_ROOT={root}", f"-DONNXRUNTIME_INCLUDE_DIR={headers}"),
        ],
        ["cmake", "--build", str(build)],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "edgekd_model"


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(program), "--threads", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def samples(bundle: Path, count: int) -> dict[str, np.ndarray]:
    """Values over the whole range of each dtype; of float ones, such as need all their digits."""
    rng = np.random.default_rng(0)
    feed = {}
    for spec in load(bundle).spec.inputs:
        shape = [count if i == 0 else size or 5 for i, size in enumerate(spec.shape)]
        dtype = np.dtype(spec.dtype)
        if dtype.kind in "iu":
            low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
            values = rng.integers(low, high, shape, dtype, endpoint=True)
        else:
            values = (rng.random(shape) < 0.5) if dtype.kind == "b" else rng.normal(size=shape)
        feed[spec.name] = values.astype(dtype)
    return feed


def arguments(folder: Path, feed: dict[str, np.ndarray]) -> list[str]:
    words = []
    for i, (name, array) in enumerate(feed.items()):
        array.tofile(folder / f"{i}.bin")
        words += ["--input", f"{name}={folder / f'{i}.bin'}"]
    return [*words, "--shape", f"open={len(feed['open'])},5"]


def test_same_bytes_as_the_runtime(program: Path, bundle: Path, tmp_path: Path) -> None:
    feed = samples(bundle, 4)
    wanted = load(bundle)(**feed)

    done = run(program, *arguments(tmp_path, feed), "--out", str(tmp_path / "out"))

    assert (done.returncode, done.stderr) == (0, "")
    for i, (name, array) in enumerate(wanted.items()):
        content = (tmp_path / "out" / f"output_{i}.bin").read_bytes()
        assert content == array.tobytes(), name
    # The test means something only where ONNX Runtime, left alone, would give other answers.
    plain = onnxruntime.InferenceSession(str(bundle / "model.onnx"))
    assert not np.array_equal(plain.run(["logits"], feed)[0], wanted["logits"])


def test_text_has_all_digits(program: Path, bundle: Path, tmp_path: Path) -> None:
    feed = samples(bundle, 2)
    wanted = load(bundle)(**feed)

    text = run(program, *arguments(tmp_path, feed)).stdout

    lines = iter(text.splitlines())
    for name, array in wanted.items():
        assert next(lines) == f"{name} [{', '.join(map(str, array.shape))}]"
        rows = [next(lines).split() for _ in range(len(array))]
        kind = np.uint8 if array.dtype == np.bool_ else array.dtype
        found = np.array([[_read(word, np.dtype(kind)) for word in row] for row in rows])
        assert np.array_equal(found.astype(array.dtype), array.reshape(len(array), -1)), name


def _read(word: str, dtype: np.dtype) -> Any:
    return dtype.type(float(word) if dtype.kind == "f" else int(word))


def splitmix(seed: int, count: int) -> list[int]:
    mask, found = 2**64 - 1, []
    for _ in range(count):
        seed = z = (seed + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
        found.append(z ^ z >> 31)
    return found


def test_inputs_from_a_seed(program: Path, tmp_path: Path) -> None:
    words = ["--seed", "7", "--batch", "2", "--shape", "open=2,1", "--out", str(tmp_path)]
    assert run(program, *words).returncode == 0

    drawn = splitmix(7, 2 * 32 + 12 * 6)[2 * 32 :]
    names = sorted(ELEMENT_TYPES)
    for i, dtype in enumerate(names):
        mine = drawn[6 * i : 6 * i + 6]
        floats = [((z >> 53) - 1024) / 1024 for z in mine]
        wanted = np.array(floats if "float" in dtype else [z >> 63 for z in mine], dtype)
        found = np.fromfile(tmp_path / f"output_{i + 1}.bin", dtype)
        assert np.array_equal(found, wanted), dtype


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
@pytest.mark.parametrize("damage", ["altered", "truncated", "too long", "missing"])
def test_a_damaged_bundle(
    program: Path, bundle: Path, tmp_path: Path, name: str, damage: str
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    new = {"altered": content, "truncated": content[:-1], "too long": content + b"\0"}
    (copy / name).unlink()
    if damage in new:
        (copy / name).write_bytes(new[damage])

    done = run(program, str(copy), "--shape", "open=1,1")

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {copy / name}") and damage in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nonsense", "1"], "there is no option --nonsense"),
        (["--batch"], "--batch needs a value"),
        (["--batch", "0", "--shape", "open=1,1"], "'0' is not a whole number from 1"),
        (["--batch", "9" * 30], "is not a whole number"),
        (["--threads", "x"], "'x' is not a whole number"),
        (["one", "two"], "give one bundle"),
        ([], "input open is [N, N]: give --shape"),
        (["--shape", "open=1"], "input open is [N, N], not 1"),
        (["--shape", "images=1,3,4,4"], "not 1,3,4,4"),
        (["--shape", "open=2147483647,2147483647"], ""),
        (["--input", "nobody=x"], "does not start with an input's name"),
        (["--input", "images=nowhere"], "nowhere is missing"),
        (["--input", f"images={__file__}"], "which is no input images of shape [N, 2, 4, 4]"),
        (["nowhere"], "manifest.json is missing"),
    ],
)
def test_wrong_usage(program: Path, words: list[str], message: str) -> None:
    done = run(program, *words)
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1


def test_cmake_says_what_is_missing(bundle: Path, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("needs cmake")
    project = deploy_cpp(bundle, tmp_path / "project").folder
    nowhere = "-DONNXRUNTIME_INCLUDE_DIR=/nowhere"
    command = ["cmake", "-S", str(project), "-B", str(tmp_path / "build"), nowhere]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "ONNXRUNTIME_INCLUDE_DIR not found" in done.stderr
