"""Data sets made of arrays and .npz files, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.data import Dataset, Split, from_arrays, from_npz

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (20, 4, 4, 1), dtype=np.uint8)
LABELS = np.arange(20) % 3


def rows(split: Split) -> list[bytes]:
    return [x.tobytes() + y.tobytes() for x, y in zip(split.x, split.y, strict=True)]


def test_arrays_are_kept_as_they_are() -> None:
    made = from_arrays(BYTES, LABELS, test=(BYTES[:6], LABELS[:6]), name="own", label="My own")
    np.testing.assert_array_equal(made.train.x, BYTES)
    np.testing.assert_array_equal(made.train.y, LABELS)
    np.testing.assert_array_equal(made.test.x, BYTES[:6])
    assert (made.name, made.label, made.num_classes) == ("own", "My own", 3)
    assert (made.train.x.dtype, made.train.y.dtype) == (np.uint8, np.int32)
    assert made.validation.x.shape == (0, 4, 4, 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, jnp.bfloat16])
def test_floats_of_any_box_become_float32(dtype: Any) -> None:
    x = np.linspace(-7, 5, 60).reshape(20, 3).astype(dtype)
    made = from_arrays(x, LABELS)
    assert (made.train.x.dtype, made.shape) == (np.float32, (3,))
    np.testing.assert_array_equal(made.train.x, x.astype(np.float32))


def test_forms_of_other_libraries_are_read() -> None:
    gray = from_arrays(BYTES[..., 0], LABELS[:, None])
    np.testing.assert_array_equal(gray.train.x, BYTES)
    np.testing.assert_array_equal(gray.train.y, LABELS)
    np.testing.assert_array_equal(from_arrays(jnp.asarray(BYTES), LABELS).train.x, BYTES)
    torch = pytest.importorskip("torch")
    made = from_arrays(torch.tensor(BYTES), torch.tensor(LABELS))
    np.testing.assert_array_equal(made.train.x, BYTES)


def test_held_out_examples_are_drawn_by_seed_and_only_they_leave() -> None:
    made, again, other = (
        from_arrays(BYTES, LABELS, test=5, validation=4, seed=s) for s in (1, 1, 2)
    )
    assert [s.size for s in (made.train, made.validation, made.test)] == [11, 4, 5]
    parts = [rows(s) for s in (made.train, made.validation, made.test)]
    assert sorted([*parts[0], *parts[1], *parts[2]]) == sorted(
        rows(from_arrays(BYTES, LABELS).train)
    )
    assert parts[2] == rows(again.test) != rows(other.test)
    cut = from_arrays(BYTES, LABELS, test=5, validation=(BYTES, LABELS), limit=2)
    assert [s.size for s in (cut.train, cut.validation, cut.test)] == [2, 2, 2]


def test_classes_are_those_of_all_splits() -> None:
    few = LABELS[:6] % 2
    assert from_arrays(BYTES[:6], few, test=(BYTES, LABELS)).num_classes == 3
    assert from_arrays(BYTES[:6], few, validation=(BYTES, LABELS)).num_classes == 3
    assert from_arrays(BYTES, LABELS, num_classes=10).num_classes == 10


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (BYTES.astype(np.int64), LABELS, {}, r"got int64; write x.astype\(np.uint8\) for 8-bit"),
        (BYTES > 9, LABELS, {}, "uint8 or floats, got bool"),
        (BYTES[:0], LABELS[:0], {}, r"train split of 'arrays' holds no examples: x has shape \(0,"),
        (np.float32(3), LABELS, {}, r"holds no examples: x has shape \(\)"),
        (BYTES, LABELS / 1, {}, "labels must be integers from 0, got float64; number your own"),
        (BYTES, LABELS.astype(str), {}, "labels must be integers from 0, got <U21"),
        (BYTES, np.eye(20, dtype=int), {}, r"shape \(20,\).*one-hot labels need argmax"),
        (BYTES, LABELS - 1, {}, r"labels span \[-1, 1\]"),
        (BYTES, LABELS[:7], {}, r"has 20 examples, but labels of shape \(7,\)"),
        (BYTES, LABELS, {"num_classes": 2}, "the model has 2 classes"),
        (np.where(BYTES > 9, np.inf, 1), LABELS, {}, "holds .* NaN or infinite values; drop"),
        (
            BYTES,
            LABELS,
            {"test": 20},
            "test=20 leaves no training examples: .* has 20; .* 19",
        ),
        (BYTES, LABELS, {"test": 0.2}, "test must be a whole number of at least 0, got 0.2"),
        (BYTES, LABELS, {"test": (BYTES,)}, r"test is \(x, y\) or a number, got a tuple of 1"),
        (BYTES, LABELS, {"test": (BYTES / 255, LABELS)}, "type float32, the train .* and uint8"),
        (BYTES, LABELS, {"test": (BYTES[:, 1:], LABELS)}, r"the test split .* \(3, 4, 1\)"),
        (BYTES, LABELS, {"validation": 20}, "validation=20 leaves no training"),
    ],
)
def test_unsuitable_arrays_are_refused(x: Any, y: Any, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_arrays(x, y, **options)


def same(a: Dataset, b: Dataset) -> bool:
    splits = ("train", "validation", "test")
    return all(rows(getattr(a, s)) == rows(getattr(b, s)) for s in splits)


def test_keras_file_is_read(tmp_path: Path) -> None:
    gray = BYTES[..., 0]
    file = tmp_path / "mnist.npz"
    np.savez(file, x_train=gray, y_train=LABELS, x_test=gray[:4], y_test=LABELS[:4], more=1.0)
    made = from_npz(file, validation=3, seed=5)
    assert made.name == "mnist"
    assert same(
        made, from_arrays(BYTES, LABELS, test=(BYTES[:4], LABELS[:4]), validation=3, seed=5)
    )


def test_a_fifth_is_held_out_where_a_file_has_no_test_split(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "own.npz", x=BYTES / 255, y=LABELS)
    assert same(from_npz(tmp_path / "own.npz"), from_arrays(BYTES / 255, LABELS, test=4))
    assert from_npz(tmp_path / "own.npz", test=0, name="other").test.size == 0


def test_a_validation_split_is_read(tmp_path: Path) -> None:
    file = tmp_path / "own.npz"
    np.savez(file, x=BYTES, y=LABELS, x_val=BYTES[:2], y_val=LABELS[:2])
    made = from_npz(file, validation=7)
    assert rows(made.validation) == rows(Split(BYTES[:2], LABELS[:2].astype(np.int32)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": BYTES, "labels": LABELS}, "needs the arrays .* has: labels, x_train"),
        ({"x": BYTES, "y": LABELS.astype(object)}, "'y' cannot be read .*numbers, not object"),
    ],
)
def test_unsuitable_files_are_refused(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        from_npz(tmp_path / "own.npz")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*own\.npz"):
        from_npz(tmp_path / "own.npz")
    (tmp_path / "own.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"own.npz is not a NumPy archive"):
        from_npz(tmp_path / "own.npz")
