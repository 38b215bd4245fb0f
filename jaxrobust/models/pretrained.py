"""Released PyTorch weights of Wong's small network, as models of this library."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxrobust.archive import Declared, declared, read
from jaxrobust.models.convnet import wong_small
from jaxrobust.models.linen import from_linen
from jaxrobust.types import Array, Model, PyTree, Variables

CIFAR_MEAN = (0.485, 0.456, 0.406)
"""Channel means the released CIFAR models subtract."""
CIFAR_STD = (0.225, 0.225, 0.225)
"""What the released CIFAR models then divide by: .225 in every channel."""

_LAYERS = ("conv1", "conv2", "dense1", "dense2")
_KEYS = {f"{layer}/{kind}" for layer in _LAYERS for kind in ("weight", "bias")}

Weights = dict[str, np.ndarray]

MOST = 2**27
"""Numbers that a file may hold: half a gigabyte of float32."""


def load_pretrained(
    name: str | os.PathLike[str], directory: str | os.PathLike[str] = "."
) -> tuple[Model, Variables]:
    """Reads one released network.

    Three-channel networks normalize inside the model, so that all take raw pixels `[B, H, W, C]`
    in [0, 1]. Names, shapes and types are checked before any array is unpacked.

    Args:
      name: a path to an .npz file, or a file's stem in `directory`.
      directory: the folder for a stem; a path is used as it is.

    Returns:
      (model, variables): Wong's small network, from pixels to logits `[B, K]`, and its trained
      parameters. The file determines H, W, C and K. The network has no statistics.

    Raises:
      FileNotFoundError: a missing file.
      ValueError: a file that does not hold the small network's arrays, all of them finite floats;
        the message names the file and what is wrong in it (`load_cascade` reads cascades).
    """
    path = _find(name, directory)
    found = _declared(path)
    _check(path, found)
    return _convert(_read(path, found))


def load_cascade(
    name: str | os.PathLike[str], directory: str | os.PathLike[str] = "."
) -> list[tuple[Model, Variables]]:
    """Reads the stages of a released cascade.

    Args:
      name, directory: as in `load_pretrained`.

    Returns:
      A pair (model, variables) as that of `load_pretrained` for every stage, first to last. A file
      holding a single network is a cascade of one stage.

    Raises:
      FileNotFoundError, ValueError: as in `load_pretrained`; also stages that are not numbered from
        0 on without a gap.
    """
    path = _find(name, directory)
    found = _declared(path)
    if not any(key.startswith("stage") for key in found):
        _check(path, found)
        return [_convert(_read(path, found))]
    stages: dict[str, dict[str, Declared]] = {}
    for key, told in found.items():
        stage, _, rest = key.partition("/")
        stages.setdefault(stage, {})[rest] = told
    order = [f"stage{index}" for index in range(len(stages))]
    if set(order) != set(stages):
        raise ValueError(f"{path}: expected the stages {order}, found {sorted(stages)}")
    for stage in order:
        _check(path, stages[stage])
    weights = _read(path, found)
    return [_convert({key: weights[f"{stage}/{key}"] for key in _KEYS}) for stage in order]


def binarized(model: Model, threshold: float = 0.5) -> Model:
    """The model behind an input threshold: it sees 1 where `x >= threshold` and 0 elsewhere.

    The defense of Wong et al. 2019 (arXiv:1902.07906, section 5). Its gradient in `x` is zero
    everywhere: a gradient attack needs the plain model.
    """

    def apply(variables: Variables, x: Array, **options: object) -> tuple[Array, PyTree]:
        return model.apply(variables, (x >= threshold).astype(x.dtype), **options)

    return Model(model.init, apply)


def _find(name: str | os.PathLike[str], directory: str | os.PathLike[str]) -> Path:
    path = Path(name)
    if path.suffix != ".npz":
        # not with_suffix: a name such as mnist_linf_0.1 already holds a dot
        path = Path(directory) / f"{name}.npz"
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.npz"))
        raise FileNotFoundError(f"no weights at {path}; its folder holds: {there or 'none'}")
    return path


def _declared(path: Path) -> dict[str, Declared]:
    found = declared(path)
    for name, (_, dtype, _) in found.items():
        if dtype.kind != "f" or dtype.itemsize > 8:
            raise ValueError(f"{path}: {name!r} must hold floats of at most 64 bits, got {dtype}")
    total = sum(math.prod(one.shape) for one in found.values())
    if total > MOST:
        raise ValueError(f"{path}: declares {total} numbers, of which at most {MOST} are read")
    return found


def _read(path: Path, expected: Mapping[str, Declared]) -> Weights:
    arrays = read(path, expected)
    for name, array in arrays.items():
        # A comparison with NaN is False.
        if not (np.abs(array) <= np.finfo(np.float32).max).all():
            raise ValueError(f"{path}: {name!r} holds NaN, infinite or too large numbers")
    return arrays


def _check(path: Path, held: Mapping[str, Declared]) -> None:
    """Raises ValueError unless these arrays are those of one small network."""
    if set(held) != _KEYS:
        hint = "; use load_cascade" if any(key.startswith("stage") for key in held) else ""
        raise ValueError(f"{path}: expected the keys {sorted(_KEYS)}, found {sorted(held)}{hint}")
    found = {layer: held[f"{layer}/weight"].shape for layer in _LAYERS}
    channels, inputs, classes = found["conv1"][1:2], found["dense1"][1:2], found["dense2"][:1]
    expected = {
        "conv1": (16, *channels, 4, 4),
        "conv2": (32, 16, 4, 4),
        "dense1": (100, *inputs),
        "dense2": (*classes, 100),
    }
    side = math.isqrt(sum(inputs) // 32)
    if found != expected or inputs != (32 * side**2,) or 0 in (*channels, *inputs, *classes):
        raise ValueError(f"{path}: not the layout of Wong's small network: {found}")
    for layer, shape in expected.items():
        bias = held[f"{layer}/bias"].shape
        if bias != shape[:1]:
            raise ValueError(f"{path}: '{layer}/bias' must have shape {shape[:1]}, got {bias}")


def _convert(weights: Weights) -> tuple[Model, Variables]:
    kernels = {layer: weights[f"{layer}/weight"] for layer in _LAYERS}
    side = math.isqrt(kernels["dense1"].shape[1] // 32)
    # PyTorch flattened [C, H, W]; images here are [H, W, C]
    dense1 = kernels["dense1"].reshape(100, 32, side, side).transpose(2, 3, 1, 0)
    converted = {
        "conv1": kernels["conv1"].transpose(2, 3, 1, 0),
        "conv2": kernels["conv2"].transpose(2, 3, 1, 0),
        "dense1": dense1.reshape(-1, 100),
        "dense2": kernels["dense2"].T,
    }
    params = {
        layer: {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(weights[f"{layer}/bias"])}
        for layer, kernel in converted.items()
    }
    color = kernels["conv1"].shape[1] == 3
    module = wong_small(
        len(kernels["dense2"]),
        mean=CIFAR_MEAN if color else None,
        std=CIFAR_STD if color else None,
    )
    return from_linen(module), Variables(params, {})
