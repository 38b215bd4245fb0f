"""Files of torch.save: their numbers, and that nothing in them runs or asks for memory."""

import contextlib
import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
from torch_bytes import MAGIC, SYSTEM, archive, several, state, stream, tensor, text, whole

from jaxrobust.models.torch_archive import open_saved
from jaxrobust.models.weight_files import open_weights

NUMBERS = np.arange(12, dtype=np.float32)


def arrays(path):
    return {name: held.read() for name, held in open_weights(path, None).held.items()}


@pytest.mark.parametrize("write", [archive, stream])
def test_tensors_are_views_of_their_storages(tmp_path, write):
    program = state(
        whole=tensor("0", 12, (3, 4)),
        transposed=tensor("0", 12, (4, 3), strides=(1, 4)),
        tail=tensor("0", 12, (5,), offset=7),
        scalar=tensor("0", 12, (), offset=2),
        empty=tensor("0", 12, (0, 3)),
        repeated=tensor("0", 12, (2, 3), strides=(0, 1), offset=9),
    )
    found = arrays(write(tmp_path / "net.pt", program, {"0": NUMBERS}))
    expected = {
        "whole": NUMBERS.reshape(3, 4),
        "transposed": NUMBERS.reshape(3, 4).T,
        "tail": NUMBERS[7:],
        "scalar": NUMBERS[2],
        "empty": np.zeros((0, 3)),
        "repeated": np.stack([NUMBERS[9:], NUMBERS[9:]]),
    }
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


KINDS = {"HalfStorage": "<f2", "DoubleStorage": "<f8", "LongStorage": "<i8", "BoolStorage": "?"}


@pytest.mark.parametrize("kind", KINDS)
def test_types_of_numbers(tmp_path, kind):
    numbers = np.array([1, 0, 1, 1]).astype(KINDS[kind])
    program = state(a=tensor("x", 4, (2, 2), kind=kind))
    found = arrays(archive(tmp_path / "net.pt", program, {"x": numbers}))["a"]
    assert found.dtype == numbers.dtype
    np.testing.assert_array_equal(found, numbers.reshape(2, 2))


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
    upper = (np.array([1.5, -3.25], "<f4").view("<u4") >> 16).astype("<u2")
    program = state(a=tensor("x", 2, (2,), kind="BFloat16Storage"))
    found = arrays(archive(tmp_path / "net.pt", program, {"x": upper}))["a"]
    np.testing.assert_array_equal(found.astype(np.float32), [1.5, -3.25])


class Call:
    """Pickles as a call of a function, as malicious files do."""

    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


def malicious(sentinel):
    code = f"open({str(sentinel)!r}, 'w').close()"
    return {
        "posix.system": Call(os.system, f"touch {sentinel}"),
        "__builtin__.eval": Call(eval, code),
        "__builtin__.exec": Call(exec, code),
        "__builtin__.getattr": Call(getattr, Call(open, str(sentinel), "w"), "close"),
    }


NAMES = ("posix.system", "__builtin__.eval", "__builtin__.exec", "__builtin__.getattr")


@pytest.mark.parametrize("place", ["archive", "in a state dict", "stream", "first of a stream"])
@pytest.mark.parametrize("name", NAMES)
def test_code_in_a_file_never_runs(tmp_path, name, place):
    sentinel, path = tmp_path / "ran", tmp_path / "net.pt"
    evil = malicious(sentinel)[name]
    program = pickle.dumps({"a": evil} if place == "in a state dict" else evil, 2)
    with contextlib.suppress(AttributeError):
        pickle.loads(program)
    assert sentinel.exists(), "the code must be one that runs where it is unpickled"
    sentinel.unlink()
    if place == "stream":
        stream(path, program, {})
    elif place == "first of a stream":
        path.write_bytes(program + MAGIC + SYSTEM)
    else:
        archive(path, program, {})
    asked = name if name != "__builtin__.getattr" else "__builtin__.getattr|io.open"
    told = rf"net\.pt cannot be read: it asks for ({asked}), .*nothing was run"
    with pytest.raises(ValueError, match=told):
        open_weights(path, None)
    assert not sentinel.exists()


RAW = {
    "INST": (b"(X\x01\x00\x00\x00aios\nsystem\n.", "the operation INST"),
    "OBJ": (b"(cos\nsystem\nX\x01\x00\x00\x00ao.", "asks for os.system"),
    "EXT1": (b"\x82\x01.", "the operation EXT1"),
    "NEWOBJ": (b"ccollections\nOrderedDict\n)\x81.", "the operation NEWOBJ"),
    "inner name": (
        b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
        "asks for torch._utils._rebuild_tensor_v2.__globals__",
    ),
    "STACK_GLOBAL": (text("os") + text("system") + b"\x93.", "asks for os.system"),
    "state of a name": (b"ccollections\nOrderedDict\n}b.", "holds a _Name where it must be"),
    "a call of a number": (whole(3) + b")R.", "holds a int where it must be"),
    "a key that is a tuple": (b"})" + whole(1) + b"s.", "holds a tuple where it must be"),
    "no end": (whole(1), "cannot be read"),
    "empty stack": (b"R.", "cannot be read"),
    "a dictionary of pairs": (
        b"ccollections\nOrderedDict\n" + several(whole(1)) + b"R.",
        "calls collections.OrderedDict in a way",
    ),
    "no storage": (
        several(text("file"), whole(1), whole(2), whole(3), whole(4)) + b"Q.",
        "no stor",
    ),
}


@pytest.mark.parametrize("case", RAW)
def test_other_operations_are_refused(tmp_path, case):
    program, told = RAW[case]
    path = archive(tmp_path / "net.pt", b"\x80\x02" + program, {})
    with pytest.raises(ValueError, match=told) as caught:
        open_weights(path, None)
    assert str(path) in str(caught.value)


VIEWS = {
    "beyond the end": tensor("0", 12, (3, 5)),
    "by its offset": tensor("0", 12, (2,), offset=11),
    "by its strides": tensor("0", 12, (2, 2), strides=(12, 1)),
    "negative offset": tensor("0", 12, (2,), offset=-4),
    "negative stride": tensor("0", 12, (2,), strides=(-1,), offset=3),
    "negative side": tensor("0", 12, (-2, -3)),
    "strides of other axes": tensor("0", 12, (2, 2), strides=(1,)),
    "huge": tensor("0", 12, (2**62, 2**62)),
    "too large for an address": tensor("0", 12, (2**70,)),
    "many axes": tensor("0", 12, (1,) * 40),
    "more than is stored": tensor("0", 1200, (3, 400)),
    "less than is stored": tensor("0", 2, (2,)),
    "another storage": tensor("1", 12, (3, 4)),
    "a storage in two ways": tensor("0", 12, (3, 4), kind="IntStorage"),
    "an unknown storage": tensor("0", 12, (3, 4), kind="QInt8Storage"),
}


@pytest.mark.parametrize("write", [archive, stream])
@pytest.mark.parametrize("view", VIEWS)
def test_views_stay_in_their_storage(tmp_path, view, write):
    program = state(a=tensor("0", 12, (12,)), b=VIEWS[view])
    path = write(tmp_path / "net.pt", program, {"0": NUMBERS})
    with pytest.raises(ValueError, match=r"net\.pt.* cannot be read: "):
        arrays(path)


def test_a_small_file_cannot_ask_for_much_memory(tmp_path):
    path, zeros = tmp_path / "bomb.pt", np.zeros(2**26, np.float32)
    program = state(a=tensor("0", zeros.size, (zeros.size,)))
    archive(path, program, {"0": zeros}, zipfile.ZIP_DEFLATED)
    del zeros
    assert path.stat().st_size < 2**20
    tracemalloc.start()
    with pytest.raises(ValueError, match="compressed"):
        open_weights(path, None)
    # Sizes that only the directory claims, and members that share their bytes.
    archive(path, program, {"0": NUMBERS})
    content = bytearray(path.read_bytes())
    for entry in (content.find(b"PK\x01\x02"), content.rfind(b"PK\x01\x02")):
        content[entry + 20 : entry + 28] = (2**30).to_bytes(4, "little") * 2
    path.write_bytes(content)
    with pytest.raises(ValueError, match="declares more bytes than the file has"):
        open_weights(path, None)
    # A pickle that doubles a list again and again: a list is never unrolled.
    doubled = b"\x80\x02]" + b"".join(b"q\x00](h\x00h\x00e" for _ in range(200)) + b"."
    archive(path, doubled, {})
    with pytest.raises(ValueError, match="holds a list instead of a state dict"):
        open_weights(path, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22


def test_a_name_of_a_storage_is_text(tmp_path):
    """A tuple that doubles again and again takes forever to hash."""
    doubled = b"\x80\x02)" + b"".join(b"q\x00h\x00\x86" for _ in range(100)) + b"a."
    keys = doubled.replace(b"\x80\x02)", b"\x80\x02])")
    path = tmp_path / "net.pt"
    path.write_bytes(MAGIC + SYSTEM + state(a=tensor("0", 0, (0,))) + keys)
    with pytest.raises(ValueError, match="lists a storage that no tensor has"):
        open_weights(path, None)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_other_files_are_told_what_they_are(tmp_path):
    path = tmp_path / "net.pt"
    told = {
        "neither an archive nor a pickle": b"<html>not found</html>",
        "a pickle that torch.save did not write": pickle.dumps(1, 2) + pickle.dumps(2, 2),
    }
    for message, content in told.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            open_weights(path, None)
    for message, names in {
        "no data.pkl": ["net/other"],
        r"TorchScript program; .*torch\.save\(model\.state_dict": ["n/data.pkl", "n/constants.pkl"],
        "a name twice": ["n/data.pkl", "n/data.pkl"],
    }.items():
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, b"\x80\x02}.")
        with pytest.raises(ValueError, match=message):
            open_weights(path, None)


def flip(data, at, size=1):
    return data[:at] + bytes(b ^ 0xFF for b in data[at : at + size]) + data[at + size :]


@pytest.mark.parametrize("write", [archive, stream])
def test_every_broken_file_is_one_value_error_that_names_it(tmp_path, write):
    path = write(tmp_path / "net.pt", state(a=tensor("0", 12, (3, 4))), {"0": NUMBERS})
    content, told = path.read_bytes(), []
    cut = [content[:size] for size in range(0, len(content) - 1, 7)]
    broken = [flip(content, at) for at in range(len(content))]
    for part in cut + broken:
        path.write_bytes(part)
        try:
            arrays(path)
        except ValueError as error:
            told.append(str(error))
    assert len(told) > len(cut) + len(broken) // 3
    assert all(str(path) in one for one in told)
    assert all("\n" not in one for one in told)


def test_the_same_file_read_by_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 5, generator=generator)
    tensors = {
        "a": base,
        "t": base.T[1:4],
        "half": base.half(),
        "brain": base.bfloat16(),
        "double": base.double(),
        "count": torch.tensor(7),
        "parameter": torch.nn.Parameter(base[:2]),
        "expanded": base[:1].expand(3, 5),
    }
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.pt"
        torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
        content, array = open_saved(path)
        expected = torch.load(path, weights_only=True)
        assert content.keys() == expected.keys()
        for name, value in expected.items():
            found = array(content[name])
            assert str(found.dtype) == str(value.dtype).removeprefix("torch.")
            np.testing.assert_array_equal(
                found.astype(np.float64), value.detach().double().numpy(), err_msg=name
            )
