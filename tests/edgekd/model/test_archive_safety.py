"""A .pt2 from a stranger must not run code. Each attack is shown to be real with trust_pickle."""

import contextlib
import io
import json
import os
import pickle
import warnings
import zipfile

import pytest
import torch
from torch import nn

from edgekd.errors import ModelError
from edgekd.model.expressions import is_safe_expression
from edgekd.model.load import open_model
from edgekd.model.program import to_program
from edgekd.model.save import save_model


class Evil:
    """Unpickling this makes a folder."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    path = tmp_path_factory.mktemp("clean") / "m.pt2"
    save_model(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.randn(2, 4), path)
    return path


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "code-ran"


@pytest.fixture
def forge(clean, tmp_path):
    """Return a function that copies the clean archive with some records changed."""

    def write(change=None, records=None, extra=None):
        path = tmp_path / "forged.pt2"
        with zipfile.ZipFile(clean) as source, zipfile.ZipFile(path, "w") as target:
            for entry in source.namelist():
                root, _, record = entry.partition("/")
                data = source.read(entry)
                if record == "models/model.json" and change is not None:
                    program = json.loads(data)
                    change(program)
                    data = json.dumps(program).encode()
                target.writestr(entry, (records or {}).get(record, data))
            for record, data in (extra or {}).items():
                target.writestr(record.replace("ROOT", root), data)
        return path

    return write


def use(path, **options):
    """Open, export and run: code may hide until the model is called."""
    loaded = to_program(open_model(path, **options), None)
    return loaded.program.module()(*loaded.example)


def refused(path, marker, message):
    with pytest.raises(ModelError, match=message) as error:
        use(path)
    assert "\n" not in str(error.value)
    assert not marker.exists()


def set_expression(text):
    def change(program):
        values = program["graph_module"]["graph"]["tensor_values"]
        for value in values.values():
            for size in value["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = text

    return change


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_the_clean_archive_passes_and_survives_repacking(clean, forge):
    assert use(clean).shape == (2, 3)
    assert use(forge()).shape == (2, 3)


def attack_is_real(path, marker):
    """Show that torch alone runs the code; whether it then fails does not matter."""
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        use(path, trust_pickle=True)
    assert marker.exists()


def test_pickled_code_in_the_sample_inputs(forge, marker):
    path = forge(records={"data/sample_inputs/model.pt": saved(Evil(marker))})
    refused(path, marker, "sample inputs hold pickled objects.*--trust-pickle")
    attack_is_real(path, marker)


def test_code_in_a_shape_expression(forge, marker):
    path = forge(set_expression(f"__import__('pathlib').Path({str(marker)!r}).touch() or 2"))
    refused(path, marker, "shape expression")
    attack_is_real(path, marker)


def test_code_in_an_argument_name(forge, marker):
    code = f"x=__import__('pathlib').Path({str(marker)!r}).touch()"

    def change(program):
        text = json.dumps(program).replace('"input"', json.dumps(code))
        program.update(json.loads(text))

    refused(forge(change), marker, "name")


def test_code_in_forward_argument_names(forge, marker):
    code = f"x=__import__('pathlib').Path({str(marker)!r}).touch()"

    def change(program):
        for call in program["graph_module"]["module_call_graph"]:
            if call["signature"]:
                call["signature"]["forward_arg_names"] = [code]

    refused(forge(change), marker, "argument name")


def test_code_in_guards_is_dropped(forge, marker):
    def change(program):
        program["guards_code"] = [f"__import__('pathlib').Path({str(marker)!r}).touch() is None"]

    assert use(forge(change)).shape == (2, 3)
    assert not marker.exists()


@pytest.mark.parametrize(
    "target",
    [
        "_operator.call",
        "_operator.methodcaller",
        "torch.load",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.__class__.mro",
        "math.__loader__.load_module",
        "os.system",
    ],
)
def test_operators_that_reach_beyond_arithmetic(forge, marker, target):
    def change(program):
        program["graph_module"]["graph"]["nodes"][-1]["target"] = target

    refused(forge(change), marker, "the operator")


def test_trees_that_import_modules(forge, marker):
    tree = [1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}]

    def change(program):
        program["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps(tree)

    refused(forge(change), marker, "not tuples, lists and dicts")


def test_an_enum_in_a_tree_would_import_a_module(forge, marker):
    context = json.dumps([{"__enum__": True, "fqn": "antigravity:X", "name": "A"}])
    tree = [1, {"type": "builtins.dict", "context": context, "children_spec": []}]

    def change(program):
        program["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps(tree)

    refused(forge(change), marker, "not tuples, lists and dicts")


def test_a_line_break_in_a_stack_trace(forge, marker):
    def change(program):
        program["graph_module"]["graph"]["nodes"][0]["metadata"]["stack_trace"] = "a\rimport os"

    refused(forge(change), marker, "control characters")


@pytest.mark.parametrize("kind", ["weights", "constants"])
def test_pickled_weights_and_constants(forge, marker, kind):
    name = "weight_0" if kind == "weights" else "tensor_0"
    entry = {"path_name": name, "is_param": False, "use_pickle": True, "tensor_meta": None}
    config = json.dumps({"config": {"0.weight": entry}}).encode()
    path = forge(
        records={f"data/{kind}/model_{kind}_config.json": config, "data/weights/weight_0": b""},
        extra={"ROOT/data/constants/tensor_0": saved(Evil(marker))}
        if kind == "constants"
        else None,
    )
    refused(path, marker, "stores '0.weight' as a pickled object")


@pytest.mark.parametrize("prefix", ["custom_obj_0", "opaque_obj_0"])
def test_custom_objects(forge, marker, prefix):
    path = forge(extra={f"ROOT/data/constants/{prefix}": pickle.dumps(Evil(marker))})
    refused(path, marker, f"does not load .*{prefix}")


def test_legacy_records_and_native_code(forge, marker):
    evil = saved(Evil(marker))
    refused(forge(extra={"ROOT/data/weights/model.pt": evil}), marker, "weights/model.pt")
    path = forge(extra={"ROOT/data/aotinductor/model/model.so": b"elf"})
    refused(path, marker, "native code")


def test_a_second_model_is_refused(forge, marker):
    refused(forge(extra={"ROOT/models/other.json": b"{}"}), marker, "models/other.json")


def test_a_record_given_twice_is_refused(forge, marker):
    evil = saved(Evil(marker))
    refused(forge(extra={"ROOT/data/sample_inputs/MODEL.pt": evil}), marker, "MODEL.pt|twice")
    # Case apart, this is the same record for a reader that ignores case.
    refused(forge(extra={"ROOT/EXTRA/a": b"1"}), marker, "does not load")


def test_the_old_format_beside_the_new_one_is_never_read(forge, marker):
    extra = {"version": b"8.1", "serialized_exported_program.json": b"{}"}
    extra |= {f"serialized_{n}.pt": saved(Evil(marker)) for n in ("state_dict", "constants")}
    refused(forge(records={"archive_version": b"9"}, extra=extra), marker, "truncated or damaged")


def test_a_program_exported_on_a_gpu(forge, marker, clean):
    with zipfile.ZipFile(clean) as archive:
        name = next(n for n in archive.namelist() if n.endswith("weights_config.json"))
        config = archive.read(name).replace(b'"cpu"', b'"cuda"')
    path = forge(records={"data/weights/model_weights_config.json": config})
    refused(path, marker, "exported on 'cuda': move the model to the CPU")


@pytest.mark.parametrize("record", ["models/model.json", "data/weights/model_weights_config.json"])
def test_damaged_records(forge, marker, record):
    refused(forge(records={record: b"{"}), marker, "truncated or damaged")
    refused(forge(records={record: b"[]"}), marker, "truncated or damaged")


def test_a_truncated_archive(clean, tmp_path, marker):
    path = tmp_path / "cut.pt2"
    path.write_bytes(clean.read_bytes()[:-100])
    refused(path, marker, "truncated or damaged")


@pytest.mark.parametrize(
    "text",
    [
        "s0",
        "2*s0 + 1",
        "s0**2",
        "Max(s0, 4)",
        "Symbol('s31', positive=True, integer=True)",
        "Add(Mul(Integer(2), Symbol('s0', integer=True)), Integer(-1))",
        "FloorDiv(Symbol('s0'), Integer(2))",
        "Float('0.5', precision=53)",
        "Eq(s0, 2)",
        "-(s0//2) <= 3",
    ],
)
def test_what_torch_writes_is_safe(text):
    assert is_safe_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s0 s1",
        "s0.real",
        "s0[0]",
        "__import__('os')",
        "exec('1')",
        "eval(s0)",
        "(lambda: 0)()",
        "[s0 for s0 in s1]",
        "'text'",
        "Symbol('__class__')",
        'Symbol("s0\'); import os")',
        "Integer('open')",
        "Float('nan); x(')",
        "Max(*s0)",
        "sympify('1')",
        "2**1000000000",
        "2**2**2**9",
        "Pow(Integer(9), Integer(999999999))",
        "f'{s0}'",
        "s0 if s1 else s2",
        "_s0",
        "1j",
        "s0" + "+s0" * 20_000,
        "(" * 500 + "s0" + ")" * 500,
    ],
)
def test_anything_else_is_not(text):
    assert not is_safe_expression(text)
