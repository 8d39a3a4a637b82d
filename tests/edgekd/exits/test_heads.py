"""What heads compute, next to the same written plainly."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest
import torch
from marks import with_slow
from networks import build, samples, trace
from torch import Tensor, nn

from edgekd.exits.heads import (
    AttentionHead,
    ConvHead,
    LinearHead,
    LocalHead,
    head_convs,
    token_grid,
)
from edgekd.export.onnx import export_onnx

WIDTH, CLASSES = 8, 5


def attention(side: int, stride: int, prefix: int) -> nn.Module:
    return AttentionHead(WIDTH, (side, side), prefix, CLASSES, stride=stride, heads=2)


HEADS = {
    "linear": (lambda: LinearHead(WIDTH, CLASSES), (WIDTH, 6, 6)),
    "linear on a vector": (lambda: LinearHead(WIDTH, CLASSES), (WIDTH,)),
    "linear on tokens": (lambda: LinearHead(WIDTH, CLASSES, tokens=True), (7, WIDTH)),
    "conv": (lambda: ConvHead(WIDTH, (12, 3, 3), CLASSES, stride=2, convs=2), (WIDTH, 6, 6)),
    "local": (lambda: LocalHead(WIDTH, (4, 4), 0, CLASSES), (16, WIDTH)),
    "local behind a class token": (lambda: LocalHead(WIDTH, (4, 4), 1, CLASSES), (17, WIDTH)),
    "attention": (lambda: attention(4, 2, 0), (16, WIDTH)),
    "attention behind two tokens": (lambda: attention(4, 2, 2), (18, WIDTH)),
}


@pytest.mark.parametrize("name", with_slow(HEADS, ["local", "attention"]))
def test_a_head_runs_in_onnx_with_any_batch_and_sees_each_sample_alone(name: str) -> None:
    make, shape = HEADS[name]
    head = build(make)
    x = samples(5, *shape)
    with torch.no_grad():
        logits, features = head(x)
        alone = torch.cat([head(row[None])[0] for row in x])
        others = head(torch.cat([x[:1], 9 * x[1:]]))[0]
    assert logits.shape == (5, CLASSES) and logits.dtype == torch.float32
    torch.testing.assert_close(alone, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(others[0], logits[0], rtol=1e-5, atol=1e-5)
    graph, spec = trace(head, x[:2])
    model = export_onnx(graph, (x[:2],), spec, opset=17)
    assert onnx.load_from_string(model).graph.input[0].type.tensor_type.shape.dim[0].dim_param
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        found = session.run(None, {spec.inputs[0].name: x[:count].numpy()})
        torch.testing.assert_close(torch.from_numpy(found[0]), logits[:count], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            torch.from_numpy(found[1]), features[:count], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(("stride", "count"), [(1, 196), (2, 49), (3, 25)])
@pytest.mark.parametrize("prefix", [0, 1, 2])
@torch.no_grad()
def test_attention_is_among_every_second_or_third_token(
    stride: int, count: int, prefix: int
) -> None:
    head = build(lambda: attention(14, stride, prefix))
    assert isinstance(head, AttentionHead)
    x = samples(2, prefix + 196, WIDTH)
    logits, features = head(x)
    assert features.shape == (2, count, WIDTH)
    normed = head.norm(x)
    grid = normed[:, prefix:].reshape(2, 14, 14, WIDTH)[:, ::stride, ::stride].flatten(1, 2)
    q, k, v = head.qkv(grid).chunk(3, -1)
    parts = []
    for i in range(2):  # heads, each with its own columns
        own = slice(i * WIDTH // 2, (i + 1) * WIDTH // 2)
        scores = q[..., own] @ k[..., own].transpose(1, 2) / (WIDTH // 2) ** 0.5
        parts.append(scores.softmax(-1) @ v[..., own])
    expected = head.project(torch.cat(parts, -1))
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    pooled = expected.mean(1) + (normed[:, 0] if prefix else 0)
    torch.testing.assert_close(logits, head.linear(pooled), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_tokens_that_are_skipped_change_nothing() -> None:
    head = build(lambda: attention(4, 2, 1))
    x = samples(2, 17, WIDTH)
    changed = x.clone()
    skipped = torch.ones(4, 4, dtype=torch.bool)
    skipped[::2, ::2] = False
    changed[:, 1:][:, skipped.flatten()] = 7.0
    assert torch.equal(head(x)[0], head(changed)[0])


@pytest.mark.parametrize("prefix", [0, 1, 2])
@torch.no_grad()
def test_the_local_head_is_a_shortcut_around_its_convolutions(prefix: int) -> None:
    head = build(lambda: LocalHead(WIDTH, (4, 4), prefix, CLASSES))
    assert isinstance(head, LocalHead)
    x = samples(3, prefix + 16, WIDTH)
    before = head(x)[0]
    last = head.body[-1]
    assert isinstance(last, nn.BatchNorm2d)
    last.weight.zero_()
    last.bias.zero_()
    normed = head.norm(x)
    pooled = normed[:, prefix:].mean(1) + (normed[:, 0] if prefix else 0)
    logits, features = head(x)
    torch.testing.assert_close(features, normed[:, prefix:])
    torch.testing.assert_close(logits, head.linear(pooled))
    assert not torch.allclose(logits, before, atol=1e-3)  # the body had something to say


@torch.no_grad()
def test_the_local_head_sees_which_tokens_are_neighbours() -> None:
    head = build(lambda: LocalHead(WIDTH, (3, 3), 0, CLASSES))
    x = samples(1, 9, WIDTH)
    changed = x.clone()
    changed[:, 0] += samples(WIDTH, seed=1)  # the upper left corner
    moved = (head(x)[1] != head(changed)[1]).any(2)[0].reshape(3, 3)
    assert moved.tolist() == [[True, True, False], [True, True, False], [False, False, False]]


def test_further_convolutions_of_a_head_halve_the_map_down_to_two_places() -> None:
    assert head_convs(4, (12, 9, 9), 4) == [
        (4, (9, 9), 1),
        (12, (5, 5), 2),
        (12, (3, 3), 2),
        (12, (2, 2), 2),
    ]
    head = build(lambda: ConvHead(WIDTH, (12, 8, 8), CLASSES, stride=1, convs=3))
    assert head.rest(head.first(samples(2, WIDTH, 8, 8))).shape == (2, 12, 2, 2)


def test_features_of_a_conv_head_have_the_size_of_the_last_feature_map() -> None:
    def features(stride: int, convs: int) -> Tensor:
        last = (12, 8 // stride, 8 // stride)
        head = build(lambda: ConvHead(WIDTH, last, CLASSES, stride=stride, convs=convs))
        found: Tensor = head(samples(2, WIDTH, 8, 8))[1]
        return found

    assert features(4, 2).shape == (2, 12, 2, 2)
    assert features(1, 1).shape == (2, 12, 8, 8)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (196, ((14, 14), 0)),
        (197, ((14, 14), 1)),
        (198, ((14, 14), 2)),
        (4, ((2, 2), 0)),
        (7, None),
        (3, None),
        (1, None),
        (0, None),
    ],
)
def test_a_grid_of_tokens_is_a_square_behind_at_most_two_others(
    count: int, expected: object
) -> None:
    assert token_grid(count) == expected
