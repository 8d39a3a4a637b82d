"""Calling a model: right results, clear refusals, nothing converted silently."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.errors import BundleError, DataError
from edgekd.runtime import load, openvino


def batch(n: int = 4) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, 3, 2, 2)).astype(np.float32)


def test_gives_what_the_network_computes(bundle: Path, weight: np.ndarray) -> None:
    x = batch()
    expected = x.reshape(4, -1) @ weight
    with load(bundle, threads=1) as model:
        np.testing.assert_allclose(model(x), expected, rtol=1e-5)
        np.testing.assert_array_equal(model(x=x), model(x))
    with load(str(bundle), "baseline") as baseline:
        np.testing.assert_allclose(baseline(x), 2 * expected, rtol=1e-5)


def test_takes_arrays_that_are_not_contiguous(bundle: Path) -> None:
    x = batch(8)
    strided = x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)[::2]
    assert not strided.flags.c_contiguous
    model = load(bundle)
    np.testing.assert_array_equal(model(strided), model(x[::2].copy()))


def test_several_inputs_and_outputs(pair_bundle: Path) -> None:
    model = load(pair_bundle)
    a, b = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
    for result in (model(a, b), model(b=b, a=a)):
        assert list(result) == ["total", "gap"]
        np.testing.assert_array_equal(result["gap"], a - b)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1.0]], "must be a numpy array, not list"),
        (batch().astype(np.float64), r"not float64; convert it with .astype\(np.float32\)"),
        (batch().astype(">f4"), "must be float32, not >f4"),
        (np.zeros((4, 3, 2, 2), np.uint8), "model.preprocess"),
        (batch()[0], r"add the batch axis with array\[np.newaxis\]"),
        (batch()[:, :2], r"x: float32\[N, 3, 2, 2\], which shape \(4, 2, 2, 2\) does not fit"),
    ],
)
def test_explains_an_input_that_does_not_fit(bundle: Path, value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(bundle)(value)


def test_explains_wrong_arguments(pair_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = load(pair_bundle)
    a = np.ones((2, 3), np.float32)
    with pytest.raises(DataError, match=r"takes 2 inputs \(a, b\), not 1"):
        model(a)
    with pytest.raises(DataError, match="unknown: c"):
        model(a=a, c=a)
    with pytest.raises(DataError, match="missing: b"):
        model(a=a)
    with pytest.raises(DataError, match="not both"):
        model(a, b=a)
    with pytest.raises(DataError, match="cannot run on this input") as caught:
        model(a, np.ones((5, 3), np.float32))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_preprocesses_as_the_manifest_says(bundle: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 2, 2, 3), dtype=np.uint8)
    model = load(bundle)
    x = model.preprocess(images)
    expected = (images / 255.0 - [0.5, 0.4, 0.3]) / 0.2
    np.testing.assert_allclose(x, expected.transpose(0, 3, 1, 2), atol=1e-6)
    assert model(x).shape == (4, 5)
    np.testing.assert_array_equal(model.preprocess(images, "x"), x)
    with pytest.raises(DataError, match="name one of these inputs"):
        model.preprocess(images, "other")


def test_says_when_there_is_no_preprocessing(pair_bundle: Path) -> None:
    with pytest.raises(DataError, match="has preprocessing for no input"):
        load(pair_bundle).preprocess(np.zeros((1, 2, 2, 3), np.uint8))


def test_a_closed_model_says_so(bundle: Path) -> None:
    model = load(bundle)
    model.close()
    model.close()
    with pytest.raises(BundleError, match="closed"):
        model(batch())


def test_threads_share_a_model(bundle: Path) -> None:
    model = load(bundle, threads=1)
    inputs = [batch(n + 1) for n in range(4)]
    expected = [model(x) for x in inputs]
    equal: list[bool] = []

    def work(i: int) -> None:
        equal.extend(np.array_equal(model(inputs[i]), expected[i]) for _ in range(50))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(equal) == 200
    assert all(equal)


def test_refuses_options_that_cannot_be_met(bundle: Path) -> None:
    with pytest.raises(BundleError, match="no model 'int4', only baseline, compressed"):
        load(bundle, "int4")
    with pytest.raises(BundleError, match="threads must be 1 or more"):
        load(bundle, threads=0)
    with pytest.raises(BundleError, match="no NoSuchProvider; it has"):
        load(bundle, providers=["NoSuchProvider"])
    assert load(bundle, providers=["CPUExecutionProvider"])(batch()).shape == (4, 5)


def test_warming_up_runs_every_kind_of_model(bundle: Path, pair_bundle: Path) -> None:
    ran: list[dict[str, tuple[int, ...]]] = []
    for folder in (bundle, pair_bundle):
        with load(folder) as model:
            session = model._session
            assert session is not None
            run = session.run
            session.run = lambda names, feed, run=run: (  # type: ignore[method-assign,misc]
                ran.append({name: array.shape for name, array in feed.items()}) or run(names, feed)
            )
            model.warmup()
        with pytest.raises(BundleError, match="closed"):
            model.warmup()
    assert ran == [{"x": (1, 3, 2, 2)}, {"a": (1, 3), "b": (1, 3)}]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_closing_while_others_call(bundle: Path, weight: np.ndarray, runtime: str) -> None:
    """A call that runs finishes and is right; every later one says that the model is closed."""
    if runtime == "openvino" and not openvino.is_installed():
        pytest.skip('needs OpenVINO: pip install "edgekd[openvino]"')
    model, x = load(bundle, runtime=runtime, threads=1), batch(64)
    expected = x.reshape(64, -1) @ weight
    right, ends = [], []
    running = threading.Barrier(5)

    def work() -> None:
        for call in range(10**9):
            if call == 5:
                running.wait()
            try:
                found = model(x)
            except BundleError as error:
                ends.append(str(error))
                return
            right.append(np.allclose(found, expected, rtol=1e-4, atol=1e-4))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    running.wait()
    model.close()
    for thread in threads:
        thread.join(30)
    assert ends == ["this model is closed; load the bundle again"] * 4
    assert len(right) >= 20 and all(right)


def test_what_is_closed_is_freed(bundle: Path) -> None:
    model = load(bundle)
    session = weakref.ref(model._session)
    model(batch())
    model.close()
    gc.collect()
    assert session() is None


@pytest.mark.parametrize(
    ("side", "change", "message"),
    [
        ("inputs", {"name": "other"}, "also needs x"),
        ("inputs", {"dtype": "int64"}, r"promises x: int64.*takes x: float32"),
        ("inputs", {"shape": [None, 3, None, 2]}, r"promises x: float32\[N, 3, N, 2\]"),
        ("outputs", {"name": "other"}, r"promises other.*gives none"),
        ("outputs", {"dtype": "int64"}, r"promises y: int64.*gives y: float32"),
        ("outputs", {"shape": [None, 6]}, r"promises y: float32\[N, 6\]"),
        ("outputs", {"shape": [None, 5, 1]}, r"promises y: float32\[N, 5, 1\]"),
    ],
)
def test_refuses_a_model_that_breaks_the_manifests_promise(
    bundle: Path, rewrite: Any, side: str, change: dict[str, Any], message: str
) -> None:
    spec = load(bundle).manifest.data["spec"]
    spec[side][0].update(change)
    rewrite({"spec": spec, "preprocessing": {}})
    with pytest.raises(BundleError, match=message):
        load(bundle)
