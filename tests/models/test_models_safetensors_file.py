"""The reader of safetensors files, against the package and against broken files."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.models.weight_files import open_weights

TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array([1.5, -2.0], np.float64),
    "half": np.array([[0.25]], np.float16),
    "count": np.array(7),
    "empty": np.zeros((0, 4), np.float32),
}
TYPES = {"float32": "F32", "float64": "F64", "float16": "F16", "int64": "I64", "bfloat16": "BF16"}


def arrays(path):
    return {name: held.read() for name, held in open_weights(path, None).held.items()}


def written(path, tensors, change=lambda header: None, extra=b""):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in tensors.items():
        place = [len(data), len(data) + array.nbytes]
        header[name] = {
            "dtype": TYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": place,
        }
        data += array.tobytes()
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data + extra)
    return path


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_numbers_shapes_and_types(tmp_path):
    tensors = TENSORS | {"brain": np.asarray(jnp.array([1.5, -3.25], jnp.bfloat16))}
    assert_equal(arrays(written(tmp_path / "net.safetensors", tensors)), tensors)


def test_files_of_the_package(tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "net.safetensors"
    package.save_file(TENSORS, path)
    assert_equal(arrays(path), TENSORS)
    assert_equal(package.load_file(written(path, TENSORS)), TENSORS)


def of(name, **changes):
    return lambda header: header[name].update(changes)


BROKEN = {
    "an unknown type": (of("a", dtype="F8_E4M3"), "'a' is of type 'F8_E4M3'; read are F64, "),
    "too few bytes": (of("a", shape=[3]), r"'a' has 16 bytes for F64 of shape \[3\]"),
    "a negative side": (of("a", shape=[-1, -2]), "'a' has a shape or a place that is none"),
    "a side that is no number": (of("a", shape=[True, 2]), "'a' has a shape or a place"),
    "a huge shape": (of("a", shape=[2**62, 2**62]), "'a' has 16 bytes"),
    "an overlap": (of("a", data_offsets=[0, 16]), "does not start where the array before it ends"),
    "beyond the end": (of("half", data_offsets=[10**9, 10**9 + 2]), "does not start where"),
    "a missing part": (lambda header: header["a"].pop("shape"), "KeyError: 'shape'"),
    "no places": (lambda header: header.update(a=3), "cannot be read: "),
    "a hole": (lambda header: header.pop("a"), "does not start where"),
    "a missing end": (
        lambda header: (header.pop("count"), header.pop("empty")),
        "arrays end at byte",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_header_must_describe_the_file(tmp_path, case):
    change, told = BROKEN[case]
    path = written(tmp_path / "net.safetensors", TENSORS, change)
    with pytest.raises(ValueError, match=told) as caught:
        arrays(path)
    assert str(path) in str(caught.value)


def test_the_header_itself(tmp_path):
    path = tmp_path / "net.safetensors"
    for content, told in (
        (b"", "would have 0 bytes, and the file has 0"),
        (b"\xff" * 8 + b"{}", "would have 18446744073709551615 bytes"),
        ((2**40).to_bytes(8, "little") + b"{}", "would have 1099511627776 bytes"),
        ((5).to_bytes(8, "little") + b"{{{{{", "JSONDecodeError"),
        ((2).to_bytes(8, "little") + b"[]", "cannot be read"),
        ((17).to_bytes(8, "little") + b'{"a": 1, "a": 2 }', "names something twice"),
        ((10**5).to_bytes(8, "little") + b"[" * 10**5, "cannot be read: RecursionError"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=told):
            open_weights(path, None)
    with pytest.raises(ValueError, match="and the file has"):
        open_weights(written(path, TENSORS, extra=b"\0"), None)


def test_every_broken_file_is_one_value_error_that_names_it(tmp_path):
    path = written(tmp_path / "net.safetensors", TENSORS)
    content, told = path.read_bytes(), []
    cut = [content[:size] for size in range(0, len(content) - 1, 5)]
    flipped = [content[:i] + bytes([content[i] ^ 0xFF]) + content[i + 1 :] for i in range(100)]
    for part in cut + flipped:
        path.write_bytes(part)
        try:
            arrays(path)
        except ValueError as error:
            told.append(str(error))
    assert len(told) > len(cut) + len(flipped) // 2
    assert all(str(path) in one for one in told)
