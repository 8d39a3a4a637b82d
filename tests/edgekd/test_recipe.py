from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.device import load_profile
from edgekd.errors import RecipeError
from edgekd.recipe import (
    Calibration,
    EarlyExitStage,
    LayerBits,
    OperatingPoint,
    PruneStage,
    QuantizeStage,
    Recipe,
    SparsifyStage,
    Synthesis,
    check_recipe,
    doubts,
    load_recipe,
    recipe_to_yaml,
    with_prune_budget,
    with_student,
    with_teachers,
)
from edgekd.settings import parse, validate
from edgekd.training_settings import Distill, DistillStage, Recovery

counts = st.integers(1, 10**9)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
distills = st.builds(
    Distill,
    loss=st.sampled_from(["auto", "kl", "standardized-kl", "top-k-kl", "mse"]),
    temperature=positive,
    top_k=counts,
    feature_weight=st.floats(0, 1e6),
    hard_label_weight=st.floats(0, 1),
    epochs=counts,
    batch_size=counts,
    learning_rate=positive,
    augment=st.sampled_from(["none", "crop", "crop-flip"]),
    ema=st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True),
    mixed_precision=st.booleans(),
)
bits = st.sampled_from(["w8a8", "w4a8", "w4a16", "float"])
stages = st.builds(
    QuantizeStage,
    stage=st.just("quantize"),
    calibration=st.builds(
        Calibration,
        samples=counts,
        method=st.sampled_from(["minmax", "percentile", "mse", "entropy"]),
    ),
    bits=bits,
    keep_ends=st.booleans(),
    group_size=st.sampled_from([16, 32, 64, 128, 256]),
    layers=st.lists(st.builds(LayerBits, match=st.text(min_size=1), bits=bits)).map(tuple),
    equalize=st.booleans(),
    rounding=st.sampled_from(["nearest", "adaround"]),
    rounding_steps=counts,
    bias_correction=st.booleans(),
    learn_step_sizes=st.booleans(),
    distill=st.none() | distills,
)
budgets = st.one_of(
    st.just({}),
    st.builds(lambda v: {"speedup": v}, st.floats(1, 1e3, exclude_min=True)),
    st.builds(lambda v: {"latency_ms": v}, positive),
    st.builds(lambda v: {"macs": v}, st.floats(0, 1, exclude_min=True, exclude_max=True)),
    st.builds(lambda v: {"parameters": v}, st.floats(0, 1, exclude_min=True, exclude_max=True)),
)
prunes = st.builds(
    lambda budget, **keys: PruneStage(stage="prune", **budget, **keys),
    budgets,
    steps=counts,
    step_epochs=counts,
    importance=st.sampled_from(["l1", "l2", "bn-scale", "taylor", "activation"]),
    across=st.sampled_from(["damage", "importance", "uniform"]),
    blocks=st.booleans(),
    multiple=st.none() | counts,
    on_unprunable=st.sampled_from(["skip", "error"]),
    samples=counts,
    distill=st.none() | st.just(Recovery()),
)
recipes = st.builds(
    Recipe,
    name=st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z"),
    seed=st.integers(0, 2**32 - 1),
    stages=st.lists(stages | prunes, min_size=1, max_size=3).map(tuple),
    synthesis=st.builds(
        Synthesis, images=st.integers(16, 10**6), batch_size=st.integers(2, 10**4), steps=counts
    ),
)


def read_text(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_recipe(str(path))


@given(recipes)
def test_written_recipes_load_back_equal(recipe: Recipe) -> None:
    assert validate(parse(recipe_to_yaml(recipe)), Recipe) == recipe


def test_shipped_recipe_states_the_defaults() -> None:
    shipped = load_recipe("int8-distilled")
    assert shipped == Recipe(name="int8-distilled", stages=(QuantizeStage(stage="quantize"),))


def test_null_distill_is_post_training_quantization(tmp_path: Path) -> None:
    recipe = read_text(tmp_path, "name: ptq\nstages: [{stage: quantize, distill: null}]")
    assert recipe.stages[0].distill is None


def test_numbers_that_yaml_reads_as_text(tmp_path: Path) -> None:
    text = "name: a\nstages: [{stage: quantize, distill: {learning_rate: 1e-4, temperature: 2}}]"
    distill = read_text(tmp_path, text).stages[0].distill
    assert distill is not None
    assert (distill.learning_rate, distill.temperature) == (1e-4, 2.0)


def test_every_mistake_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read_text(
            tmp_path,
            "name: a b\nsed: 1\nstages:\n"
            "  - stage: quantise\n"
            "  - stage: quantize\n"
            "    calibration: {samples: 0, methods: mse}\n"
            "    distill: {temperature: 0, hard_label_weight: yes, epochs: 2.5, batch_size: yes}\n",
        )
    message = str(caught.value)
    assert "\n" not in message
    for mistake in (
        "sed: unknown key (did you mean seed?)",
        "name: ",
        "stages[0].stage: 'quantise' is not one of distill, prune, sparsify, early_exit, ",
        "stages[1].calibration.samples: should be greater than or equal to 1, not 0",
        "stages[1].calibration.methods: unknown key (did you mean method?)",
        "stages[1].distill.temperature: should be greater than 0, not 0",
        "stages[1].distill.hard_label_weight: should be a number, not True",
        "stages[1].distill.epochs: ",
        "stages[1].distill.batch_size: ",
    ):
        assert mistake in message
    assert message.count("; ") == 8
    assert "Tuple" not in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty file"),
        ("name: a", "stages: is missing"),
        ("name: a\nstages: []", "stages: needs at least one entry"),
        ("name: a\nstages: 3", "stages: should be a list"),
        ("name: a\nstages: [3]", r"stages\[0\]: should be keys with values"),
        ("name: a\nstages: [{distill: null}]", r"stages\[0\].stage: is missing"),
        ("name: a\nname: b\nstages: []", "line 2: key 'name' is given twice"),
        ("name: a\nstages: [{stage: quantize, distill: {epochs: 1, epochs: 2}}]", "given twice"),
        ("name: a\nstages: [{stage: quantize, distill: {temperature: .nan}}]", "temperature"),
        ("name: a\nstages: [{stage: quantize, distill: {temperature: 1e400}}]", "temperature"),
        ("name: a\nstages: [{stage: quantize, distill: {ema: 1}}]", "ema: should be less than 1"),
        ("name: a\nstages: [{stage: quantize, distill: {feature_weight: -1}}]", "feature_weight"),
        ("name: a\nstages: [{stage: quantize, distill: {top_k: 0}}]", "top_k"),
        (
            "name: a\nstages: [{stage: quantize, distill: {loss: topk-kl}}]",
            "distill.loss: 'topk-kl' is not one of .*did you mean top-k-kl",
        ),
        ("name: a\nstages: [{stage: quantize, equalize: 1}]", "equalize"),
        ("name: a\nstages: [{stage: quantize, bits: w4a4}]", "did you mean w4a8"),
        ("name: a\nstages: [{stage: quantize, group_size: 48}]", "group_size"),
        ("name: a\nstages: [{stage: quantize, layers: [{match: '*'}]}]", r"layers\[0\].bits"),
        ("name: a\nstages: [{stage: quantize, layers: [{math: a, bits: float}]}]", "mean match"),
        ("name: a\nstages: [{stage: quantize, bias_correction: 'yes'}]", "bias_correction"),
        ("name: a\nstages: [{stage: quantize, rounding: adaruond}]", "did you mean adaround"),
        ("name: a\nstages: [{stage: quantize, rounding_steps: 0}]", "rounding_steps"),
        ("name: a\nstages: [{stage: quantize, calibration: {method: kl}}]", "entropy"),
        (
            "name: a\nstages: [{stage: prune, speedup: 1}]",
            "speedup: should be greater than 1, not 1",
        ),
        ("name: a\nstages: [{stage: prune, macs: 1}]", "macs: should be less than 1, not 1"),
        (
            "name: a\nstages: [{stage: prune, latency_ms: 0}]",
            "latency_ms: should be greater than 0",
        ),
        (
            "name: a\nstages: [{stage: prune, speedup: 2, macs: 0.5}]",
            r"stages\[0\]: give one budget, not speedup and macs$",
        ),
        ("name: a\nstages: [{stage: prune, on_unprunable: warn}]", "on_unprunable: 'warn' is not"),
        ("name: a\nstages: [{stage: prune, importance: tailor}]", "did you mean taylor"),
        ("name: a\nstages: [{stage: prune, blocks: 1}]", "blocks: should be true or false"),
        ("name: a\nstages: [{stage: prune, steps: 0}]", "steps: should be greater than or equal"),
        ("name: a\nstages: !!python/name:os.system", "could not determine a constructor"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_broken_recipes(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        read_text(tmp_path, text)


@given(st.text(max_size=60))
def test_any_text_is_a_recipe_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    assert "\n" not in str(caught.value)


def test_unknown_name() -> None:
    with pytest.raises(RecipeError, match=r"did you mean int8-distilled\?"):
        load_recipe("int8-distiled")


@pytest.mark.parametrize("target", ["cpu", "jetson"])
def test_quantize_runs_once(target: str) -> None:
    stage = QuantizeStage(stage="quantize")
    profile = load_profile(target)
    check_recipe(Recipe(name="once", stages=(stage,)), profile)
    with pytest.raises(RecipeError, match=r"stages\[1\]: quantize runs at most once"):
        check_recipe(Recipe(name="twice", stages=(stage, stage)), profile)


def test_a_pattern_of_zeros_is_no_number_to_base_60(tmp_path: Path) -> None:
    stage = read_text(tmp_path, "name: a\nstages: [{stage: sparsify, pattern: 2:4}]").stages[0]
    assert isinstance(stage, SparsifyStage) and stage.pattern == "2:4"
    assert parse("[12, 0x1f, 017, 0b11, 1_000, -3, 2:4]") == [12, 31, 15, 3, 1000, -3, "2:4"]


PRUNE, SPARSIFY, QUANTIZE = (
    "{stage: prune, macs: 0.5}",
    "{stage: sparsify}",
    "{stage: quantize}",
)


@pytest.mark.parametrize(
    ("stages", "mistakes"),
    [
        (
            [QUANTIZE, PRUNE],
            ["stages[1]: prune must come before quantize: prune trains in float, and quantize"],
        ),
        (
            [SPARSIFY, PRUNE],
            ["stages[1]: prune must come before sparsify: taking out channels would break the"],
        ),
        ([QUANTIZE, SPARSIFY], ["stages[1]: sparsify must come before quantize: sparsify trains"]),
        ([PRUNE, PRUNE], ["stages[1]: prune runs at most once"]),
        (
            [QUANTIZE, SPARSIFY, PRUNE],
            [
                "stages[1]: sparsify must",
                "stages[2]: prune must come before quantize",
                "[2]: prune",
            ],
        ),
        (["{stage: prune}"], ["stages[0]: prune needs a budget: speedup, latency_ms, macs, param"]),
    ],
)
def test_stages_out_of_order_are_refused_with_the_reason(
    tmp_path: Path, stages: list[str], mistakes: list[str]
) -> None:
    recipe = read_text(tmp_path, f"name: a\nstages: [{', '.join(stages)}]")
    with pytest.raises(RecipeError) as caught:
        check_recipe(recipe, load_profile("cpu"))
    message = str(caught.value)
    assert message.startswith("recipe a for cpu: ") and "\n" not in message
    for mistake in mistakes:
        assert mistake in message
    assert message.count("; ") - message.count("; or") == len(mistakes) - 1


def test_all_stages_in_order_are_fine(tmp_path: Path) -> None:
    recipe = read_text(tmp_path, f"name: a\nstages: [{PRUNE}, {SPARSIFY}, {QUANTIZE}]")
    for target in ("cpu", "jetson"):
        check_recipe(recipe, load_profile(target))


def test_integers_are_refused_where_a_device_has_none() -> None:
    nano, recipe = load_profile("jetson-nano"), load_recipe("sparse24-int8-distilled")
    with pytest.raises(RecipeError, match=r"stages\[1\]: quantize gains nothing on NVIDIA Jetson"):
        check_recipe(recipe, nano)
    check_recipe(load_recipe(nano.recipe), nano)
    assert doubts(load_recipe(nano.recipe), nano) == []


def test_integers_without_instructions_for_them_are_doubted() -> None:
    slow, fast = load_profile("raspberry-pi-4"), load_profile("raspberry-pi-5")
    recipe = load_recipe("int8-distilled")
    check_recipe(recipe, slow)
    (doubt,) = doubts(recipe, slow)
    assert "raspberry-pi-4 has no instructions for INT8" in doubt and "edgekd bench" in doubt
    assert doubts(recipe, fast) == []
    assert doubts(load_recipe("pruned-distilled"), slow) == []


EXITS, FROZEN = "{stage: early_exit}", "{stage: early_exit, joint: null}"


@pytest.mark.parametrize(
    ("stages", "mistake"),
    [
        ([QUANTIZE, EXITS], "stages[1]: early_exit behind quantize needs 'joint: null'"),
        ([EXITS, PRUNE], "stages[1]: prune must come before early_exit: heads are made for the"),
        ([EXITS, SPARSIFY], "stages[1]: sparsify must come before early_exit: heads learn from"),
        ([FROZEN, FROZEN], "stages[1]: early_exit runs at most once"),
    ],
)
def test_early_exits_out_of_place_are_refused(
    tmp_path: Path, stages: list[str], mistake: str
) -> None:
    recipe = read_text(tmp_path, f"name: a\nstages: [{', '.join(stages)}]")
    with pytest.raises(RecipeError) as caught:
        check_recipe(recipe, load_profile("cpu"))
    assert str(caught.value).startswith(f"recipe a for cpu: {mistake}")


@pytest.mark.parametrize(
    "stages",
    [
        [EXITS],
        [FROZEN],
        [EXITS, QUANTIZE],
        [QUANTIZE, FROZEN],
        [PRUNE, SPARSIFY, EXITS, QUANTIZE],
        [PRUNE, SPARSIFY, QUANTIZE, FROZEN],
    ],
)
def test_early_exits_come_behind_what_takes_weights_out(tmp_path: Path, stages: list[str]) -> None:
    recipe = read_text(tmp_path, f"name: a\nstages: [{', '.join(stages)}]")
    for target in ("cpu", "jetson"):
        check_recipe(recipe, load_profile(target))
    assert parse(recipe_to_yaml(recipe))["stages"][0]["stage"] == recipe.stages[0].stage


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("joint: null, heads: null", "'joint' is null, so that nothing would be trained"),
        ("joint: null, auxiliary: true", "'joint' is null, so that nothing would be trained"),
        ("operating_points: []", "operating_points"),
        ("operating_points: [{name: full, max_drop: 1}]", "different names, other than 'full'"),
        (
            "operating_points: [{name: a, max_drop: 1}, {name: a, max_drop: 2}]",
            "operating_points need different names, other than 'full'",
        ),
        (
            "operating_points: [{name: a-uncertified, max_drop: 1}]",
            "'-uncertified' stands behind names of points that cannot be promised",
        ),
        ("operating_points: [{name: 'a b', max_drop: 1}]", "name"),
        ("operating_points: [{name: a, max_drop: -1}]", "max_drop"),
        ("candidates: 7", "candidates"),
        ("certainty: 1", "certainty"),
        ("head: local", "head"),
        ("at: ['']", "at"),
    ],
)
def test_mistakes_in_early_exits_are_named(tmp_path: Path, keys: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_text(tmp_path, f"name: a\nstages: [{{stage: early_exit, {keys}}}]")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_thresholds_settings_do_not_belong_to_the_training() -> None:
    plain = EarlyExitStage(stage="early_exit")
    thresholds = {
        "confidence": "margin",
        "certainty": 0.9,
        "operating_points": (OperatingPoint(name="other", max_drop=1.0),),
    }
    assert plain.model_copy(update=thresholds).trained_settings() == plain.trained_settings()
    for key, value in (("candidates", 2), ("at", ("a",)), ("head", "linear"), ("heads", None)):
        changed = plain.model_copy(update={key: value})
        assert changed.trained_settings() != plain.trained_settings()


def test_a_budget_from_outside_takes_the_place_of_the_recipe_s() -> None:
    recipe = load_recipe("pruned-int8-distilled")
    changed = with_prune_budget(recipe, "latency_ms", 2.5)
    stage, rest = changed.stages
    assert isinstance(stage, PruneStage) and stage.budget() == {"latency_ms": 2.5}
    assert stage.with_budget("speedup", 2.0) == recipe.stages[0] and rest == recipe.stages[1]
    with pytest.raises(RecipeError, match=r"^--speedup: should be greater than 1, not 0.5$"):
        with_prune_budget(recipe, "speedup", 0.5)
    with pytest.raises(RecipeError, match=r"^--latency-ms: should be greater than 0, not 0"):
        with_prune_budget(recipe, "latency_ms", 0.0)
    with pytest.raises(RecipeError, match="--latency-ms needs a recipe with a prune stage"):
        with_prune_budget(load_recipe("int8-distilled"), "latency_ms", 1.0)


def test_the_recipe_of_all_stages_is_that_of_two_with_zeros_between() -> None:
    both, all_three = map(load_recipe, ("pruned-int8-distilled", "pruned-sparse24-int8-distilled"))
    sparse = load_recipe("sparse24-int8-distilled")
    assert all_three.stages == (both.stages[0], sparse.stages[0], both.stages[1])
    assert getattr(all_three.stages[1], "if_no_gain", None) == "skip"


def test_training_backbone_and_heads_compares_no_features_unless_asked() -> None:
    def joint(**keys: float) -> Recovery | None:
        return EarlyExitStage.model_validate({"stage": "early_exit", "joint": keys}).joint

    assert joint(epochs=10) == joint() == EarlyExitStage(stage="early_exit").joint
    found = joint(feature_weight=2.0)
    assert found is not None and found.feature_weight == 2.0
    assert EarlyExitStage(stage="early_exit", joint=None).joint is None


def test_the_recipes_with_early_exits_add_them_to_others() -> None:
    exits, quantize = load_recipe("early-exit-int8").stages
    assert exits == EarlyExitStage(stage="early_exit")
    assert (quantize,) == load_recipe("int8-distilled").stages
    prune = load_recipe("pruned-int8-distilled").stages[0]
    assert load_recipe("pruned-early-exit-int8").stages == (prune, exits, quantize)


DISTILL, STUDENT = "{stage: distill}", "{stage: distill, student: 'a.py:b'}"


@pytest.mark.parametrize(
    ("stages", "mistake"),
    [
        ([QUANTIZE, DISTILL], "stages[1]: distill must come before quantize: distill trains in"),
        ([SPARSIFY, DISTILL], "stages[1]: distill must come before sparsify: training would fill"),
        ([EXITS, DISTILL], "stages[1]: distill must come before early_exit: heads learn from the"),
        ([PRUNE, STUDENT], "stages[1]: distill with a student must be the first stage, since the"),
    ],
)
def test_distillation_comes_first(tmp_path: Path, stages: list[str], mistake: str) -> None:
    recipe = read_text(tmp_path, f"name: a\nstages: [{', '.join(stages)}]")
    with pytest.raises(RecipeError) as caught:
        check_recipe(recipe, load_profile("cpu"))
    assert mistake in str(caught.value)


def test_a_student_learns_in_phases_and_the_model_behind_prune(tmp_path: Path) -> None:
    for stages in ([STUDENT, DISTILL, PRUNE, DISTILL, SPARSIFY, QUANTIZE], [PRUNE, DISTILL]):
        recipe = read_text(tmp_path, f"name: a\nstages: [{', '.join(stages)}]")
        check_recipe(recipe, load_profile("cpu"))


def test_a_student_of_the_command_line_takes_the_place_of_the_recipes(tmp_path: Path) -> None:
    recipe = read_text(tmp_path, f"name: a\nstages: [{STUDENT}, {QUANTIZE}]")
    first = with_student(recipe, "c.py:d", Path("w.pt")).stages[0]
    assert isinstance(first, DistillStage)
    assert (first.student, first.student_weights) == ("c.py:d", "w.pt")
    first = with_student(recipe, None, Path("w.pt")).stages[0]
    assert isinstance(first, DistillStage) and first.student == "a.py:b"

    with pytest.raises(RecipeError, match="--student needs a recipe with a distill stage"):
        with_student(load_recipe("int8-distilled"), "c.py:d", None)
    with pytest.raises(RecipeError, match="--student-weights needs --student"):
        with_student(load_recipe("student-distilled"), None, Path("w.pt"))


def test_teachers_of_the_command_line_come_behind_the_recipes(tmp_path: Path) -> None:
    text = "{stage: distill, teachers: [{file: a.onnx, weight: 2.0}]}"
    recipe = read_text(tmp_path, f"name: a\nstages: [{text}, {{stage: distill}}]")
    first, second = with_teachers(recipe, [Path("b.onnx"), Path("c.pt2")]).stages
    assert isinstance(first, DistillStage) and isinstance(second, DistillStage)
    named = [(teacher.file, teacher.weight) for teacher in first.teachers]
    assert named == [("a.onnx", 2.0), ("b.onnx", 1.0), ("c.pt2", 1.0)]
    assert not second.teachers
    with pytest.raises(RecipeError, match="--teacher needs a recipe with a distill stage"):
        with_teachers(load_recipe("int8-distilled"), [Path("b.onnx")])


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ("losses: []", "'losses' is empty and 'label_weight' 0"),
        ("student_weights: w.pt", "'student_weights' without 'student'"),
        ("original_weight: 0", "'original_weight' is 0, and there are no other"),
        ("losses: [{loss: kll}]", "kll"),
        ("losses: [{loss: kl, top_k: 3}]", "top_k"),
    ],
)
def test_settings_of_a_distill_stage_that_make_no_sense(
    tmp_path: Path, keys: str, reason: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        read_text(tmp_path, f"name: a\nstages: [{{stage: distill, {keys}}}]")
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_names_of_files_do_not_decide_what_a_stage_makes() -> None:
    one, other = (DistillStage(stage="distill", student=f"{x}.py:f") for x in "ab")
    assert one.content() == other.content() != DistillStage(stage="distill").content()
