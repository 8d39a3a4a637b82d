"""open_model: every kind of file a user may give."""

import argparse
import hashlib
import io
import pickle
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.errors import ModelError
from edgekd.model.load import open_model

SHARED = Path(__file__).resolve().parents[3] / "../shared"
NET = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.bn = nn.BatchNorm2d(4)
            self.fc = nn.Linear(4, 5)

        def forward(self, x):
            return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))
"""


@pytest.fixture
def arch(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(textwrap.dedent(NET))
    return f"{path}:Net"


@pytest.fixture
def weights(arch):
    torch.manual_seed(0)
    space = {}
    exec(textwrap.dedent(NET), space)
    return space["Net"]().state_dict()


def write(folder, content, **options):
    path = folder / "model.bin"  # the suffix must not matter
    torch.save(content, path, **options)
    return path


def refused(path, message, **options):
    with pytest.raises(ModelError, match=message) as error:
        open_model(path, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"state_dict": w, "epoch": 3},
        lambda w: {"model": w, "optimizer": {}},
        lambda w: {"model_state_dict": w},
        lambda w: {"net": w, "acc": 91.5},
        lambda w: {"ema": w},
        lambda w: {"model": w, "ema": w},
        lambda w: {f"module.{k}": v for k, v in w.items()},
        lambda w: {f"_orig_mod.{k}": v for k, v in w.items()},
        lambda w: {f"module._orig_mod.{k}": v for k, v in w.items()},
        lambda w: {k.replace("conv.", "conv._orig_mod."): v for k, v in w.items()},
        lambda w: {"n_averaged": torch.tensor(3)} | {f"module.{k}": v for k, v in w.items()},
        lambda w: {k: v for k, v in w.items() if "num_batches" not in k},
    ],
)
def test_a_state_dict_in_any_wrapping(tmp_path, arch, weights, wrap, zipped):
    path = write(tmp_path, wrap(weights), _use_new_zipfile_serialization=zipped)
    opened = open_model(path, arch=arch)
    assert opened.kind == "state_dict"
    assert opened.program is None
    assert not opened.module.training
    assert torch.equal(opened.module.state_dict()["conv.weight"], weights["conv.weight"])


def test_the_digest_covers_weights_and_architecture(tmp_path, arch, weights):
    path = write(tmp_path, weights)
    opened = open_model(path, arch=arch)
    assert opened.source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert opened.source["file"] == "model.bin"
    assert opened.source["arch"] == "net.py:Net"  # no folder: it goes into manifests
    source = Path(arch.removesuffix(":Net"))
    source.write_text(source.read_text() + "\n# changed\n")
    assert open_model(path, arch=arch).sha256 != opened.sha256


def test_half_precision_becomes_float(tmp_path, arch, weights):
    halves = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    opened = open_model(write(tmp_path, halves), arch=arch)
    assert all(p.dtype == torch.float32 for p in opened.module.parameters())


def test_safetensors(tmp_path, arch, weights):
    from safetensors.torch import save

    path = tmp_path / "model.pt"
    path.write_bytes(save(weights))
    assert open_model(path, arch=arch).kind == "state_dict"
    path.write_bytes(save(weights)[:-9])
    refused(path, "damaged|not a model file", arch=arch)


def test_the_public_resnet20():
    checkpoint = SHARED / "models/resnet20-12fca82f.th"
    if not checkpoint.is_file():
        pytest.skip("the public ResNet-20 is not beside the repository")
    opened = open_model(checkpoint, arch=f"{SHARED}/models/resnet_cifar.py:resnet20")
    assert all(p.device.type == "cpu" for p in opened.module.parameters())
    assert opened.module(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_weights_without_an_architecture(tmp_path, weights):
    refused(write(tmp_path, weights), "say which network they belong to with --arch")


def test_keys_that_do_not_fit(tmp_path, arch, weights):
    renamed = {k.replace("fc.", "fcc."): v for k, v in weights.items()}
    refused(
        write(tmp_path, renamed),
        r"missing fc.bias \(the file has fcc.bias\), .*unexpected fcc.bias, fcc.weight",
        arch=arch,
    )
    extra = weights | {f"extra{i}": torch.zeros(1) for i in range(5)}
    refused(write(tmp_path, extra), "unexpected extra0, extra1, extra2 and 2 more", arch=arch)
    shaped = weights | {"fc.weight": torch.zeros(7, 4)}
    message = r"another shape: fc.weight is \(7, 4\) in the file, \(5, 4\) in the model"
    refused(write(tmp_path, shaped), message, arch=arch)
    refused(write(tmp_path, weights | {"fc.bias": 3}), "fc.bias is a int", arch=arch)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not a state_dict"),
        ({"epoch": 3, "loss": 0.5}, "holds no state_dict; its entries: epoch, loss"),
        ({}, "holds no state_dict; its entries: nothing"),
        (torch.zeros(3), "holds a Tensor"),
        ({"model": {"a": torch.zeros(1)}, "net": {"a": torch.zeros(1)}}, r"several .*model, net"),
    ],
)
def test_checkpoints_without_one_set_of_weights(tmp_path, arch, content, message):
    refused(write(tmp_path, content), message, arch=arch)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f(:", "failed: SyntaxError"),
        ("import nothing_like_this", "failed: ModuleNotFoundError: No module named"),
        ("def f(): raise ValueError('bad width')", r"net.py:f\(\) failed: ValueError: bad width"),
        ("def f(width): pass", r"f\(\) failed: TypeError"),
        ("def f(): return 3", "returned a int, not a torch.nn.Module"),
        ("f = 3", "f is a int, not a function"),
        ("def fn(): pass", "has no function f; did you mean fn"),
        ("raise SystemExit(1)", "failed: SystemExit"),
    ],
)
def test_mistakes_in_the_users_architecture(tmp_path, weights, code, message):
    (tmp_path / "net.py").write_text(code)
    refused(write(tmp_path, weights), message, arch=f"{tmp_path}/net.py:f")


def test_an_architecture_may_import_its_neighbours_or_be_a_package(
    tmp_path, weights, arch, monkeypatch
):
    (tmp_path / "other.py").write_text("from net import Net\n")
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, weights)
    assert open_model(path, arch=f"{tmp_path}/other.py:Net").kind == "state_dict"
    assert open_model(path, arch="other:Net").source["arch"] == "other:Net"


@pytest.mark.parametrize("arch_text", ["net", "net.py", ":f", "net.py:", "a b:f", "net.py:f()"])
def test_an_architecture_must_name_file_and_function(tmp_path, weights, arch_text):
    refused(write(tmp_path, weights), "--arch .* must be FILE.py:factory", arch=arch_text)


def test_a_missing_architecture_file(tmp_path, weights):
    refused(write(tmp_path, weights), "none.py: no such file", arch=f"{tmp_path}/none.py:f")


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: {"model": m, "epoch": 1}])
def test_a_pickled_module_needs_trust(tmp_path, zipped, wrap):
    module = wrap(nn.Sequential(nn.Linear(4, 2), nn.Dropout()))
    path = write(tmp_path, module, _use_new_zipfile_serialization=zipped)
    refused(path, "whole pickled module .*would run code.*state_dict.*--trust-pickle")
    opened = open_model(path, trust_pickle=True)
    assert opened.kind == "pickled_module"
    assert not opened.module.training


def test_pickled_code_does_not_run(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marker,))

    path = write(tmp_path, {"state_dict": {"a": torch.zeros(1)}, "x": Evil()})
    refused(path, "holds .*save it again with only the state_dict, or pass --trust-pickle")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (np.float64(91.5), "numpy"),
        (Path("runs/1"), "pathlib"),
    ],
)
def test_extras_that_need_trust(tmp_path, arch, weights, extra, named):
    path = write(tmp_path, {"state_dict": weights, "extra": extra})
    refused(path, f"model.bin holds {named}.*only the state_dict", arch=arch)
    assert open_model(path, arch=arch, trust_pickle=True).kind == "state_dict"


def test_a_class_that_is_not_there(tmp_path):
    path = write(tmp_path, Custom())
    data = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.namelist():  # the same module, of a class that does not exist
            target.writestr(entry, source.read(entry).replace(b"Custom", b"Cusxxx"))
    refused(path, "needs a class that cannot be imported here", trust_pickle=True)


def onnx_bytes():
    import onnx
    from onnx import helper

    node = helper.make_node("Relu", ["x"], ["y"])
    value = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
    return helper.make_model(
        helper.make_graph([node], "g", value[:1], value[1:])
    ).SerializeToString()


def zip_of(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: b"", "is empty"),
        (lambda: b"<!DOCTYPE html><html>404", "is a web page.*download failed"),
        (lambda: b"\n <html>", "is a web page"),
        (lambda: b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (onnx_bytes, "is an ONNX model.*edgekd.save_model"),
        (lambda: pickle.dumps({"a": 1}), "is a plain pickle"),
        (lambda: b"\x00" * 257 + b"ustar" + b"\x00" * 300, "is a tar file"),
        (lambda: bytes(range(100)), "not a model file that edgekd knows"),
        (lambda: b"x", "not a model file that edgekd knows"),
        (lambda: b"PK\x03\x04rubbish", "truncated or damaged"),
        (lambda: zip_of("word/document.xml"), "a zip file, but not one that torch"),
        (lambda: zip_of("x_train.npy"), "numpy arrays.*--data"),
        (lambda: zip_of("m/code/a.py", "m/constants.pkl", "m/data.pkl"), "TorchScript.*save_model"),
        (lambda: zip_of("version", "serialized_exported_program.json"), "old torch"),
        (lambda: zip_of("m/data.pkl"), "truncated or damaged"),
    ],
)
def test_files_that_are_no_model(tmp_path, content, message):
    path = tmp_path / "model.pt"
    path.write_bytes(content())
    refused(path, message)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_checkpoints(tmp_path, arch, weights, zipped, share):
    path = write(tmp_path, weights, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "truncated or damaged", arch=arch)


def test_folders_and_missing_files(tmp_path):
    refused(tmp_path, "is a folder")
    refused(tmp_path / "none.pt", "none.pt: no such file")
