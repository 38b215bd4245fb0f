"""Which state dict a mapping or a file holds, and what is said where it holds none."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from torch_bytes import archive, state, tensor, text, whole

from jaxrobust.models.weight_files import ENTRIES, open_weights

STATE = {"conv.weight": np.ones((2, 3), np.float32), "count": np.array(3)}


def found(source, entry=None):
    return {name: held.read() for name, held in open_weights(source, entry).held.items()}


def assert_state(held):
    assert held.keys() == STATE.keys()
    for name, array in STATE.items():
        np.testing.assert_array_equal(held[name], array)


@pytest.mark.parametrize("wrapper", [None, *ENTRIES, "ema"])
def test_a_state_dict_and_what_training_code_wraps_it_in(wrapper):
    other = {
        "epoch": 3,
        "accuracy": np.float32(0.5),
        "optimizer": {"state": {0: {"step": 5}}, "param_groups": []},
    }
    assert_state(found(STATE if wrapper is None else {**other, wrapper: STATE}))
    assert_state(found(OrderedDict(STATE)))


def test_one_of_several():
    both = {"last": STATE, "best": {"other": np.zeros(2)}}
    with pytest.raises(ValueError, match=r"several state dicts; choose one by entry=.*'last', 'b"):
        open_weights(both, None)
    assert_state(found(both, "last"))
    assert_state(found({"ema": {"other": np.zeros(2)}, "state_dict": STATE}))
    with pytest.raises(ValueError, match=r"no state dict 'lsat'; it holds: \['last', 'best'\]"):
        open_weights(both, "lsat")


def test_an_archive_of_numpy(tmp_path):
    np.savez(tmp_path / "net.npz", **STATE)
    assert_state(found(tmp_path / "net.npz"))
    assert_state(found(str(tmp_path / "net.npz")))
    with pytest.raises(ValueError, match=r"entry='last' is for files of torch\.save"):
        open_weights(tmp_path / "net.npz", "last")
    np.savez(tmp_path / "text.npz", a=np.array(["text"]))
    with pytest.raises(ValueError, match=r"text\.npz.*'a'.*must hold numbers"):
        open_weights(tmp_path / "text.npz", None)


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "model_best.pth.tar", "net.bin"])
def test_files_of_torch_save_have_many_endings(tmp_path, name):
    numbers = {"0": STATE["conv.weight"], "1": STATE["count"]}
    weight, count = tensor("0", 6, (2, 3)), tensor("1", 1, (), kind="LongStorage")
    inner = state(**{"conv.weight": weight, "count": count})
    program = state(epoch=whole(3), net=inner[2:-1])
    assert_state(found(archive(tmp_path / name, program, numbers)))


def test_what_holds_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights at .*none\.pt"):
        open_weights(tmp_path / "none.pt", None)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        open_weights(tmp_path, None)
    with pytest.raises(TypeError, match="a mapping of names to arrays or a file, not list"):
        open_weights([STATE], None)

    class Module:
        state_dict = None

    with pytest.raises(TypeError, match=r"not Module; give model\.state_dict\(\)"):
        open_weights(Module(), None)
    with pytest.raises(ValueError, match=r"holds no tensors; its keys: \['epoch'\]"):
        open_weights({"epoch": 3}, None)
    with pytest.raises(ValueError, match="'name' is a str, not a tensor"):
        open_weights(STATE | {"name": "resnet"}, None)
    for content, told in ((tensor("0", 1, ()), "TensorRecord"), (text("hello"), "str")):
        path = archive(tmp_path / "net.pt", b"\x80\x02" + content + b".", {"0": np.ones(1, "f4")})
        with pytest.raises(ValueError, match=rf"net\.pt holds a {told} instead of a state dict"):
            open_weights(path, None)


def test_tensors_of_pytorch():
    torch = pytest.importorskip("torch")
    half = torch.tensor([1.5, 2.0], dtype=torch.bfloat16, requires_grad=True)
    held = found({"half": half, "count": torch.tensor(2**40 + 1)})
    np.testing.assert_array_equal(held["half"], [1.5, 2.0])
    assert held["count"] == 2**40 + 1


def test_the_stored_checkpoints_hold_what_they_should():
    folder = Path(__file__).parent / "data"
    held = open_weights(folder / "resnet_narrow.pt", None).held
    assert held["module.mu"].shape == (1, 3, 1, 1)
    assert open_weights(folder / "preact_narrow_stream.pt", None).held["bn.bias"].shape == (6,)
