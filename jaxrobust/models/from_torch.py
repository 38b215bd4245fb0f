"""Weights trained in PyTorch as models of this library."""

from __future__ import annotations

import fnmatch
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.models.linen import from_linen
from jaxrobust.models.registry import build
from jaxrobust.models.torch_layouts import LAYOUTS, NORMALIZATIONS, PREFIXES, Layout
from jaxrobust.models.weight_files import Held, finite, open_weights, plain_names
from jaxrobust.types import Model, Variables

MOST = 2**29
"""Numbers that a network may have: 2 gigabytes of float32."""

MOST_CHANNELS = 1024
"""Channels that a normalization may be about."""

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
"""Our names of a layer's arrays, and theirs."""


def from_torch_state_dict(
    source: Mapping[str, Any] | str | os.PathLike[str],
    architecture: str,
    *,
    num_classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    options: Mapping[str, Any] | None = None,
    entry: str | None = None,
    ignore: Sequence[str] = (),
) -> tuple[Model, Variables]:
    """Reads weights trained in PyTorch, by the layer names of RobustBench, TRADES and torchvision.

    PyTorch is not needed. Nothing in a file ever runs: of a pickle only tensors, containers, text
    and numbers are read. Every array of the file must belong to the network, and the other way
    round; names, shapes and types are checked before any number is read. A last layer without
    bias has a bias of 0. Prefixes that wrappers put before all names are taken off.

    Args:
      source: names and arrays (NumPy's, JAX's or PyTorch's), such as `model.state_dict()`, or a
        file: .safetensors, .npz, or anything that `torch.save` wrote.
      architecture: one of `LAYOUTS`, such as "resnet18" or "wide_resnet_28_10".
      num_classes: number of logits K; None: as many as the file's last layer has.
      mean, std: what the network subtracts from its input's channels and divides them by, where
        the PyTorch code did so outside of the network; None: the file's own buffers, or nothing.
      options: arguments of the network's factory, as in `models.build`; "preact_resnet18" needs
        "shortcut", which no file tells.
      entry: key of the checkpoint that holds the state dict, where several do.
      ignore: patterns of names (`fnmatch`) that are left out on purpose.

    Returns:
      (model, variables): from raw images `[B, H, W, C]` to logits `[B, K]`, and its weights.

    Raises:
      FileNotFoundError: a missing file. TypeError: a source that is neither; an unknown option.
      ValueError: an unknown architecture; a file that cannot be read; arrays that are missing,
        not the network's, of another shape, or not finite. The message names file and array.

    Example:
      >>> from jaxrobust import models
      >>> models.from_torch_state_dict("weights.pt", "resnet_18")
      Traceback (most recent call last):
      ValueError: unknown architecture 'resnet_18'; did you mean 'resnet18'? Known: ...
    """
    checks.choice("architecture", architecture, LAYOUTS)
    layout, options = LAYOUTS[architecture], dict(options or {})
    for option, choices in layout.unsaid.items():
        if option not in options:
            raise ValueError(
                f"no file tells the {option} of a {architecture}; give the option {option}: "
                f"{choices}"
            )
    where, held = open_weights(source, entry)
    held = plain_names(where, held, PREFIXES, ignore)
    mean, std = _normalization(where, held, mean, std)
    if layout.normalizes and (mean is None or std is None):
        raise ValueError(
            f"{where} holds no mean and std, by which a {architecture} normalizes its input; give "
            "mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616) for RobustBench's CIFAR-10"
        )
    for option, layer in layout.switches.items():
        options.setdefault(option, f"{layer}.weight" in held)
    classes, channels = (
        _side(where, held, f"{layer}.weight", axis)
        for layer, axis in ((layout.last, 0), (layout.first, 1))
    )
    if num_classes not in (None, classes):
        raise ValueError(f"{where} is of {classes} classes, not of num_classes={num_classes}")
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) not in (1, channels):
            raise ValueError(f"{where}: {name} has {len(values)} entries for {channels} channels")
    module = build(architecture, classes, {**options, "mean": mean, "std": std})
    model = from_linen(module)
    image = jax.ShapeDtypeStruct((1, layout.side, layout.side, channels), jnp.float32)
    like = jax.eval_shape(model.init, jax.random.key(0), image)
    slots = list(_slots(layout, like))
    last_bias = f"{layout.last}.bias"
    if last_bias not in held:
        held[last_bias] = Held((classes,), np.dtype("float32"), lambda: np.zeros(classes))
    problems = _problems(layout, slots, held)
    if problems:
        raise ValueError(f"{where} does not hold a {architecture}: {'; '.join(problems)}")
    params: dict[str, dict[str, jax.Array]] = {}
    stats: dict[str, dict[str, jax.Array]] = {}
    for slot in slots:
        array = _numbers(where, slot, held[slot.theirs])
        tree = stats if slot.leaf in ("mean", "var") else params
        tree.setdefault(slot.layer, {})[slot.leaf] = jnp.asarray(array)
    return model, Variables(params, stats)


class _Slot(NamedTuple):
    """An array of the network: its place in our variables, and its name and shape in PyTorch."""

    layer: str
    leaf: str
    theirs: str
    shape: tuple[int, ...]
    channels: int | None
    """Channels of the flattened images that a dense layer sees."""


def _slots(layout: Layout, like: Variables) -> Iterable[_Slot]:
    for tree in (like.params, like.stats):
        for layer, leaves in tree.items():
            for leaf, array in leaves.items():
                # Convolutions: [kh, kw, C, F] here, [F, C, kh, kw] there. Dense layers: transposed.
                axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim]
                shape = tuple(array.shape[axis] for axis in axes)
                name = f"{layout.theirs(layer)}.{_LEAVES[leaf]}"
                flattened = layout.flattened.get(layer) if leaf == "kernel" else None
                yield _Slot(layer, leaf, name, shape, flattened)


def _numbers(where: str, slot: _Slot, held: Held) -> np.ndarray:
    array = finite(where, slot.theirs, held)
    if slot.leaf == "var" and (array < 0).any():
        raise ValueError(f"{where}: {slot.theirs!r} holds negative variances")
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if slot.channels is not None:
        # PyTorch flattened [C, H, W]; images here are [H, W, C].
        side = math.isqrt(array.shape[1] // slot.channels)
        images = array.reshape(len(array), slot.channels, side, side)
        return images.transpose(2, 3, 1, 0).reshape(-1, len(array))
    return array.T


def _normalization(
    where: str,
    held: dict[str, Held],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """What is asked for, or what the file's buffers hold, which are taken out of `held`."""
    for names in NORMALIZATIONS:
        if not all(name in held for name in names):
            continue
        if mean is not None or std is not None:
            raise ValueError(
                f"{where} holds its own {names[0]} and {names[1]}; give no mean or std"
            )
        for name in names:
            if math.prod(held[name].shape) > MOST_CHANNELS:
                raise ValueError(f"{where}: {name!r} is of shape {held[name].shape}")
        mean, std = (finite(where, name, held.pop(name)).ravel().tolist() for name in names)
        if min(std, default=0) <= 0:
            raise ValueError(f"{where}: {names[1]!r} must be above 0, got {std}")
    if std is not None:
        checks.positive("std", np.asarray(std))
    return tuple(mean) if mean is not None else None, tuple(std) if std is not None else None


def _side(where: str, held: Mapping[str, Held], name: str, axis: int) -> int:
    if name not in held:
        raise ValueError(f"{where} holds no {name!r}; it holds: {_few(held)}")
    shape = held[name].shape
    if len(shape) <= axis:
        raise ValueError(f"{where}: {name!r} is of shape {shape}, which no such layer has")
    return shape[axis]


def _problems(layout: Layout, slots: Sequence[_Slot], held: Mapping[str, Held]) -> list[str]:
    shapes = {slot.theirs: slot.shape for slot in slots}
    both = [name for name in shapes if name in held]
    other = [name for name in held if name not in shapes]
    unknown = [n for n in other if not any(fnmatch.fnmatchcase(n, p) for p in layout.unused)]
    wrong = [
        f"{name} is {held[name].shape} and must be {shapes[name]}"
        for name in both
        if held[name].shape != shapes[name]
    ]
    kinds = [
        f"{name} ({held[name].dtype})"
        for name in both
        if not jnp.issubdtype(held[name].dtype, jnp.floating)
    ]
    total = sum(math.prod(shape) for shape in shapes.values())
    told = {
        "missing": [name for name in shapes if name not in held],
        "not of this network (leave arrays out by ignore=)": unknown,
        "of another shape": wrong,
        "not floating point": kinds,
        f"more than {MOST} numbers": [str(total)] if total > MOST else [],
    }
    return [f"{kind}: {_few(names)}" for kind, names in told.items() if names]


def _few(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
