"""Samples leave where their exit is sure enough, alone and in batches, and keep that answer."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exits import (
    CASES,
    all_exits,
    expected,
    exported,
    inputs_of,
    middle_thresholds,
    run,
    segments_of,
    write_cascade,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.errors import BundleError, DataError
from edgekd.runtime import Answer, Cascade, Manifest, Model, load
from edgekd.runtime.cascade import segment_spec
from edgekd.runtime.manifest import Deployment
from edgekd.runtime.opening import check_signature, open_session


def write(out: Path, name: str = "cnn", kind: str = "onnxruntime", **cascade: Any) -> Path:
    """Write a bundle with the points ``full``, ``default`` and ``first``."""
    middle = middle_thresholds(name, kind, inputs_of(name, 12))
    points: dict[str, list[float | None]] = {
        "full": [None, None],
        "default": [*middle],
        "first": [-1.0, None],
    }
    return write_cascade(out, name, kind, points, **cascade)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write(tmp_path / "cnn")


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_sample_gets_the_answer_of_its_exit(tmp_path: Path, name: str, kind: str) -> None:
    feed = inputs_of(name, 12)
    folder = write(tmp_path / name, name, kind)
    for point in ("full", "default", "first"):
        with load(folder, operating_point=point, threads=1) as cascade:
            thresholds = cascade.operating_points[point]
            outputs, exits = cascade.run(**feed)
            answers, left = expected(name, kind, thresholds, feed)
            np.testing.assert_array_equal(exits, left)
            np.testing.assert_allclose(outputs, answers, rtol=1e-4, atol=1e-5)
            for i in range(12):
                alone = cascade.run(**{key: array[i : i + 1] for key, array in feed.items()})
                assert alone.exits.tolist() == [left[i]] and alone.exits.dtype == np.int64
                np.testing.assert_allclose(alone.outputs[0], answers[i], rtol=1e-4, atol=1e-5)
    assert set(expected(name, kind, middle_thresholds(name, kind, feed), feed)[1]) == {0, 1, 2}


def test_nothing_leaves_without_thresholds_so_it_is_the_whole_model(bundle: Path) -> None:
    feed = inputs_of("cnn", 5)
    cascade, model = (
        load(bundle, operating_point="full", threads=1),
        load(bundle, "compressed", threads=1),
    )
    assert isinstance(cascade, Cascade) and isinstance(model, Model)
    assert cascade.operating_point == "full" and cascade.spec == model.spec
    np.testing.assert_array_equal(cascade(**feed), model(**feed))
    np.testing.assert_array_equal(
        cascade(feed["x"]), run(exported("cnn", "onnxruntime")[0], feed)["output_0"]
    )
    assert cascade.run(feed["x"]).exits.tolist() == [2] * 5


BUNDLES: dict[str, Cascade] = {}


@pytest.fixture(scope="module", autouse=True)
def _opened(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = write(tmp_path_factory.mktemp("any") / "encoder", "encoder", "float")
    BUNDLES["encoder"] = load(folder, operating_point="full", threads=1)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.none() | st.floats(0, 1), min_size=2, max_size=2),
    st.integers(0, 9),
    st.integers(0, 5),
)
def test_any_thresholds_and_any_batch(thresholds: Any, count: int, seed: int) -> None:
    feed = inputs_of("encoder", max(count, 1), seed)
    feed = {name: array[:count] for name, array in feed.items()}
    cascade = at(BUNDLES["encoder"], thresholds)
    outputs, exits = cascade.run(**feed)
    assert outputs.shape == (count, 5) and exits.shape == (count,)
    if count:
        answers, left = expected("encoder", "float", thresholds, feed)
        np.testing.assert_array_equal(exits, left)
        np.testing.assert_allclose(outputs, answers, rtol=1e-4, atol=1e-5)


def at(cascade: Cascade, thresholds: list[float | None]) -> Cascade:
    """Return the same with other thresholds, as another manifest would give them."""
    entry, sessions = cascade.manifest.cascade, cascade._sessions
    assert entry is not None and sessions is not None
    entry = replace(entry, operating_points={"any": tuple(thresholds)})
    return Cascade(sessions, replace(cascade.manifest, cascade=entry), "any")


def test_operating_points_share_what_is_loaded(bundle: Path) -> None:
    feed = inputs_of("cnn", 12)
    cascade = load(bundle, operating_point="full")
    assert isinstance(cascade, Cascade)
    first = cascade.with_operating_point("first")
    assert first.operating_point == "first" and list(first.operating_points) == [
        "full",
        "default",
        "first",
    ]
    cascade.close()
    assert first.run(**feed).exits.tolist() == [0] * 12
    with pytest.raises(BundleError, match="closed"):
        cascade(**feed)
    with pytest.raises(BundleError, match="closed"):
        cascade.with_operating_point("full")
    with pytest.raises(BundleError, match="no operating point 'fast', only full, default, first"):
        first.with_operating_point("fast")


def test_a_threshold_is_strict_and_float32(bundle: Path) -> None:
    feed = inputs_of("cnn", 4)
    (_, sure), *_ = all_exits("cnn", "onnxruntime", feed)
    cascade = load(bundle, operating_point="full")
    exactly = at(cascade, [float(sure[0]), None])
    below = at(cascade, [float(np.nextafter(sure[0], np.float32(0))), None])
    one = {"x": feed["x"][:1]}
    assert exactly.run(**one).exits.tolist() == [2] and below.run(**one).exits.tolist() == [0]
    assert exactly.run(**feed).exits[0] == 2 and below.run(**feed).exits[0] == 0


def test_a_deadline_stops_at_the_deepest_exit_that_fits(tmp_path: Path) -> None:
    """Stored times decide: 2 s for the second segment, next to nothing for the others."""
    folder = write(tmp_path / "slow")
    feed = inputs_of("cnn", 3)
    answers = all_exits("cnn", "onnxruntime", feed)
    cases = [([1e-6, 2000.0, 1e-6], 1500.0, 0), ([1e-6, 1e-6, 2000.0], 1500.0, 1),
             ([9e9, 1e-6, 1e-6], 5000.0, 2), ([1e-6, 1e-6, 1e-6], 0.0, 0)]  # fmt: skip
    for times, deadline, exit in cases:
        cascade = with_times(folder, times)
        found = cascade.run(**feed, deadline_ms=deadline)
        assert isinstance(found, Answer) and found.exits.tolist() == [exit] * 3
        np.testing.assert_allclose(found.outputs, answers[exit][0], rtol=1e-4, atol=1e-5)
        one = cascade(feed["x"][:1], deadline_ms=deadline)
        np.testing.assert_allclose(one, answers[exit][0][:1], rtol=1e-4, atol=1e-5)


def test_a_deadline_counts_the_samples_that_are_left(tmp_path: Path) -> None:
    folder = write(tmp_path / "slow")
    cascade, feed = with_times(folder, [1e-6, 2000.0, 1e-6]), inputs_of("cnn", 3)
    (_, sure), *_ = all_exits("cnn", "onnxruntime", feed)
    level = float(np.sort(sure)[1])  # one sample of three is above it
    both = {key: array[np.argsort(sure)[1:]] for key, array in feed.items()}
    assert at(cascade, [level, None]).run(**feed, deadline_ms=3500.0).exits.tolist() == [0] * 3
    assert sorted(at(cascade, [level, None]).run(**both, deadline_ms=3500.0).exits) == [0, 2]


def with_times(folder: Path, times: list[float]) -> Cascade:
    """Open the bundle with other 99th percentiles, in ms, in its manifest."""
    points: dict[str, list[float | None]] = {"full": [None, None]}
    files = [f"segment_{i}.onnx" for i in range(3)]
    links = [s.link and s.link.__dict__ for s in segments_of("cnn", "onnxruntime")]
    entries = [
        {"file": file, "link": link, "latency_ms": {"p50": p99, "p99": p99}}
        for file, link, p99 in zip(files, links, times, strict=True)
    ]
    return load(
        write_cascade(folder, "cnn", "onnxruntime", points, segments=entries),
        operating_point="full",
    )


def test_a_deadline_needs_measured_times(tmp_path: Path) -> None:
    folder, x = write(tmp_path / "untimed"), inputs_of("cnn", 1)["x"]
    cascade = with_times(folder, [1.0, 1.0, 1.0])
    for wrong in (-1.0, float("nan")):
        with pytest.raises(DataError, match="deadline_ms must be 0 or more"):
            cascade(x, deadline_ms=wrong)
    entries = [
        {**entry, "latency_ms": None} for entry in cascade.manifest.data["cascade"]["segments"]
    ]
    points: dict[str, list[float | None]] = {"full": [None, None]}
    write_cascade(folder, "cnn", "onnxruntime", points, segments=entries)
    untimed = load(folder, operating_point="full")
    assert untimed(x).shape == (1, 5)
    with pytest.raises(BundleError, match="no times of its segments"):
        untimed(x, deadline_ms=5.0)


def test_is_called_like_a_model(bundle: Path) -> None:
    cascade = load(bundle, operating_point="default")
    x = inputs_of("cnn", 2)["x"]
    with pytest.raises(DataError, match="must be float32"):
        cascade(x.astype(np.float64))
    with pytest.raises(DataError, match="takes 1 inputs"):
        cascade.run(x, x)
    with pytest.raises(DataError, match="preprocessing for no input"):
        cascade.preprocess(np.zeros((1, 12, 12, 3), np.uint8))
    with cascade as same:
        assert same is cascade
    cascade.close()
    with pytest.raises(BundleError, match="closed"):
        cascade(x)


def test_warming_up_runs_every_segment(bundle: Path) -> None:
    cascade = load(bundle, operating_point="first", threads=1)  # where every sample leaves early
    ran = []
    for index, step in enumerate(cascade._steps):
        run = step.run
        step.run = lambda names, feed, run=run, index=index: ran.append(index) or run(names, feed)
    cascade.warmup()
    assert ran == [0, 1, 2]
    cascade.close()
    with pytest.raises(BundleError, match="closed"):
        cascade.warmup()


def test_calls_from_many_threads(bundle: Path) -> None:
    cascade, feed = load(bundle, operating_point="default", threads=1), inputs_of("cnn", 12)
    answers, left = expected("cnn", "onnxruntime", cascade.operating_points["default"], feed)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: cascade.run(feed["x"][i % 12 :][:3]), range(48)))
    for i, (outputs, exits) in enumerate(found):
        np.testing.assert_array_equal(exits, left[i % 12 :][:3])
        np.testing.assert_array_equal(outputs, answers[i % 12 :][:3])


def test_refuses_what_cannot_be(bundle: Path, pair_bundle: Path) -> None:
    with pytest.raises(BundleError, match="no operating point 'fast', only full, default, first"):
        load(bundle, operating_point="fast")
    with pytest.raises(BundleError, match="no early exits, so no operating point 'fast'"):
        load(pair_bundle, operating_point="fast")
    with pytest.raises(BundleError, match="'compressed' has no exits"):
        load(bundle, "compressed", operating_point="full")  # type: ignore[call-overload]
    with pytest.raises(BundleError, match=r"segment_0\.onnx: there is no runtime 'tflite'"):
        load(bundle, operating_point="full", runtime="tflite")
    with pytest.raises(BundleError, match="segments have no engines: leave out operating_point"):
        load(bundle, operating_point="full", runtime="tensorrt")
    (bundle / "segment_1.onnx").write_bytes(b"x" * (bundle / "segment_1.onnx").stat().st_size)
    for options in ({}, {"operating_point": "full"}, {"model": "compressed"}):
        with pytest.raises(BundleError, match=r"segment_1\.onnx was altered"):
            load(bundle, **options)


def test_segments_have_to_be_what_the_manifest_says(bundle: Path, tmp_path: Path) -> None:
    entries = load(bundle).manifest.data["cascade"]["segments"]
    swapped = [{**entries[0], "file": "segment_1.onnx"}, *entries[1:]]
    wrong = [
        entries[0],
        {**entries[1], "link": {**entries[1]["link"], "dtype": "int8"}},
        entries[2],
    ]
    points: dict[str, list[float | None]] = {"full": [None, None]}
    for segments, message in ((swapped, "the model also needs"), (wrong, "the manifest promises")):
        folder = write_cascade(tmp_path / "bad", "cnn", "onnxruntime", points, segments=segments)
        with pytest.raises(BundleError, match=message):
            load(folder, operating_point="full")


def test_runs_on_openvino_as_well(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs OpenVINO: pip install 'edgekd[openvino]'")
    for name, kind in (("cnn", "onnxruntime"), ("encoder", "float")):
        feed = inputs_of(name, 12)
        folder = write(tmp_path / f"{name}-{kind}", name, kind)
        cascade = load(folder, operating_point="default", runtime="openvino", threads=1)
        outputs, exits = cascade.run(**feed)
        answers = all_exits(name, kind, feed)
        for i, exit in enumerate(exits):
            np.testing.assert_allclose(outputs[i], answers[exit][0][i], rtol=0.05, atol=0.05)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["target"]["runtime"] = "tensorrt"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="written for tensorrt"):
        load(bundle, operating_point="full", runtime="openvino")


def test_what_a_segment_has_to_take_and_give(bundle: Path) -> None:
    manifest: Manifest = load(bundle).manifest
    assert manifest.cascade is not None
    model = segments_of("cnn", "onnxruntime")[1].model
    session = open_session(model, "onnxruntime", Deployment(), 1, None)
    spec = segment_spec(session, manifest.spec, manifest.cascade, 1)
    check_signature(session, spec)
    passed = manifest.cascade.segments[2].link
    assert passed is not None
    assert [t.name for t in spec.outputs] == ["output_2", "confidence", passed.name]


def test_load_opens_the_model_without_exits_where_nothing_leaves(tmp_path: Path) -> None:
    points = {"full": [None, None], "fast": [0.5, 0.5]}
    folder = write_cascade(tmp_path / "b", "cnn", "onnxruntime", points)
    assert load(folder).manifest.cascade is not None
    assert isinstance(load(folder), Model)
    assert isinstance(load(folder, operating_point="full"), Cascade)
