from advice_pairs import Cnn
from networks import IMAGE, Transformer, build, samples, trace

from edgekd.advice.capacity import Capacity, CapacityRatio, capacity


def test_a_network_counted_by_hand() -> None:
    example = samples(2, *IMAGE)
    module, _ = trace(build(Cnn), example)
    stem, a, b = 3 * 8 * 9, 8 * 8 * 9, 8 * 16 * 9
    parameters = stem + a + b + 2 * (8 + 8 + 16) + 16 * 3 + 3
    assert capacity(module, (example,)) == Capacity(parameters, 64 * (stem + a) + 16 * b + 16 * 3)


def test_products_of_attention_count() -> None:
    example = samples(2, 6, 16)
    module, _ = trace(build(Transformer), example)
    tokens, width = 6, 16
    layers = tokens * width * width * (3 + 1 + 4 + 4) + width * 3
    assert capacity(module, (example,)).macs == layers + 2 * tokens * tokens * width


def test_ratios_are_the_teachers_over_the_students() -> None:
    ratio = CapacityRatio(Capacity(300, 80), Capacity(100, 160))
    assert (ratio.parameters, ratio.macs) == (3.0, 0.5)
