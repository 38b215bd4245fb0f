"""Input checks: what passes, what raises, and that the message names value and mend."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import checks, data


@pytest.mark.parametrize("value", [0, 0.0, 1e-9, np.array([0.0, 2.0]), np.float32(3)])
def test_nonnegative_accepts(value: Any) -> None:
    checks.nonnegative("radius", value)


@pytest.mark.parametrize("value", [-1e-9, np.nan, np.inf, np.array([1.0, -1.0])])
def test_nonnegative_refuses(value: Any) -> None:
    with pytest.raises(ValueError, match="radius must be finite and at least 0, got"):
        checks.nonnegative("radius", value)


@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf, np.array([1.0, 0.0])])
def test_positive_refuses(value: Any) -> None:
    with pytest.raises(ValueError, match="radius must be finite and above 0, got"):
        checks.positive("radius", value)
    checks.positive("radius", np.array([1.0, 0.5]))


def test_device_arrays_are_checked_and_traced_values_pass() -> None:
    with pytest.raises(ValueError, match="radius"):
        checks.nonnegative("radius", jnp.array(-1.0))

    @jax.jit
    def inside(value: jax.Array) -> jax.Array:
        assert not checks.is_concrete(value)
        checks.nonnegative("radius", value)
        checks.positive("radius", value)
        return value

    assert inside(jnp.float32(-1)) == -1
    assert checks.is_concrete(1.0)
    assert not checks.is_concrete("one")
    assert not checks.is_concrete(object())


@pytest.mark.parametrize("value", [0, -3, 1.5, 2.0, True, "3", None])
def test_at_least_refuses(value: Any) -> None:
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1"):
        checks.at_least("steps", value, 1)


def test_at_least_accepts() -> None:
    checks.at_least("steps", 1, 1)
    checks.at_least("steps", np.int64(7), 1)


def test_choice_suggests_the_nearest() -> None:
    checks.choice("noise", "laplace", ("laplace", "gaussian"))
    with pytest.raises(ValueError, match="unknown noise 'gausian'; did you mean 'gaussian'"):
        checks.choice("noise", "gausian", ("laplace", "gaussian"))
    with pytest.raises(ValueError, match=r"unknown noise 'xyz'\. Known: gaussian, laplace"):
        checks.choice("noise", "xyz", ("laplace", "gaussian"))


def test_images_accepts() -> None:
    for dtype in (np.float32, np.float64, jnp.bfloat16):
        checks.images(np.array([0.0, 0.5, 1.0]).astype(dtype))
    checks.images(jnp.zeros((2, 3)))
    checks.images(np.zeros((0, 3)))
    checks.images(np.array([-1.0, 1.0]), lower=-1.0)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.array([0, 255], np.uint8), "uint8; convert 8-bit images with x / 255"),
        (np.array([0.0, np.nan, np.inf]), "2 NaN or infinite"),
        (np.array([-2.1, 2.3]), r"span \[-2.1, 2.3\] but must lie in \[0, 1\]"),
        (np.array([0.0, 255.0]), "divide 8-bit images by 255"),
        (np.array([0.0, 1.0 + 1e-4]), "must lie in"),
    ],
)
def test_images_refuses(x: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checks.images(x)


@pytest.mark.parametrize(
    ("y", "classes", "message"),
    [
        (np.array([0, 1]), 1, "at least 2 classes, got 1"),
        (np.eye(2, dtype=np.int32), 3, "argmax"),
        (np.array([0, 1, 2]), 3, r"shape \(2,\)"),
        (np.array([0.0, 1.0]), 3, "integers, got float64"),
        (np.array([0, 3]), 3, r"span \[0, 3\] but the model has 3 classes"),
        (np.array([-1, 0]), 3, r"span \[-1, 0\]"),
    ],
)
def test_labels_refuses(y: np.ndarray, classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checks.labels(y, count=2, num_classes=classes)


def test_labels_accepts() -> None:
    checks.labels(np.array([0, 2], np.uint8), count=2, num_classes=3)
    checks.labels(jnp.array([0, 1]), count=2, num_classes=2)
    checks.labels(np.zeros(0, np.int64), count=0, num_classes=2)


@pytest.mark.parametrize("y", [0, 2, np.int64(1), jnp.int32(2)])
def test_label_accepts_each_class(y: Any) -> None:
    checks.label("y", y, num_classes=3)


@pytest.mark.parametrize("y", [1.0, True, np.zeros(3, int), jnp.float32(1)])
def test_label_is_one_integer(y: Any) -> None:
    with pytest.raises(ValueError, match="target must be one integer, got"):
        checks.label("target", y, num_classes=3)


@pytest.mark.parametrize("y", [-1, 3, jnp.int32(3)])
def test_label_is_a_class_where_it_is_known(y: Any) -> None:
    with pytest.raises(ValueError, match=f"y={int(y)} is none of 3 classes"):
        checks.label("y", y, num_classes=3)
    jax.eval_shape(lambda y: checks.label("y", y, num_classes=3), y)


def test_a_package_of_an_extra_says_how_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    told = r"sklearn.datasets is not installed; .* pip install 'jaxrobust\[data\]'"
    with pytest.raises(ModuleNotFoundError, match=told) as found:
        data.load("digits")
    assert found.value.name == "sklearn.datasets"
