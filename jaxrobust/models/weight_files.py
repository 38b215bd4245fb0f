"""State dicts of PyTorch by name, whatever holds them: a mapping, or a file of three formats."""

from __future__ import annotations

import fnmatch
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np

from jaxrobust import archive
from jaxrobust.models import safetensors_file
from jaxrobust.models.torch_archive import open_saved
from jaxrobust.models.torch_pickle import TensorRecord

Answer = TypeVar("Answer")

ENTRIES = ("state_dict", "model_state_dict", "model", "net", "weights")
"""Keys under which checkpoints hold a state dict beside other things."""


class Held(NamedTuple):
    """An array that is not yet read: its shape, its type, and the reading.

    What goes wrong in the reading is a ValueError that names file and array.
    """

    shape: tuple[int, ...]
    dtype: Any
    read: Callable[[], np.ndarray]


class Weights(NamedTuple):
    """A state dict and, for messages, where it comes from."""

    where: str
    held: dict[str, Held]


def open_weights(source: Mapping[str, Any] | str | os.PathLike[str], entry: str | None) -> Weights:
    """The state dict of a mapping or a file; see `from_torch_state_dict`.

    Raises:
      FileNotFoundError: a missing file. TypeError: a source that is neither.
      ValueError: a file that cannot be read, or content that holds no state dict or several; the
        message names file and mend.
    """
    if isinstance(source, Mapping):
        where = "the state dict"
        return Weights(where, _arrays(where, _chosen(where, source, entry)))
    if not isinstance(source, str | os.PathLike):
        hint = "; give model.state_dict()" if hasattr(source, "state_dict") else ""
        raise TypeError(
            f"weights are a mapping of names to arrays or a file, not {type(source).__name__}{hint}"
        )
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    where = str(path)
    if path.suffix in (".npz", ".safetensors"):
        if entry is not None:
            raise ValueError(f"{path}: entry={entry!r} is for files of torch.save")
        return Weights(where, (_npz if path.suffix == ".npz" else _safetensors)(path))
    saved = _guarded(where, lambda: open_saved(path))
    chosen = _chosen(where, saved.content, entry)
    return Weights(where, _arrays(where, chosen, saved.array))


def finite(where: str, name: str, held: Held) -> np.ndarray:
    """The numbers of an array as float32; ValueError for those that are none."""
    array = held.read().astype(np.float64)
    # A comparison with NaN is False.
    if not (np.abs(array) <= np.finfo(np.float32).max).all():
        raise ValueError(f"{where}: {name!r} holds NaN, infinite or too large numbers")
    return array.astype(np.float32)


def plain_names(
    where: str, held: Mapping[str, Held], prefixes: Sequence[str], ignore: Sequence[str]
) -> dict[str, Held]:
    """The arrays by their names without prefixes; counters and what is ignored left out."""
    found: dict[str, Held] = {}
    for full, array in held.items():
        name, before = full, ""
        while name != before:
            before = name
            for prefix in prefixes:
                name = name.removeprefix(prefix)
        counts = name.endswith("num_batches_tracked")
        if counts or any(fnmatch.fnmatchcase(n, p) for n in (full, name) for p in ignore):
            continue
        if name in found:
            raise ValueError(f"{where} holds {name!r} with two prefixes")
        found[name] = array
    return found


def _guarded(where: str, read: Callable[[], Answer]) -> Answer:
    """The answer; whatever goes wrong with bytes from elsewhere is one ValueError."""
    try:
        return read()
    except Exception as error:
        told = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(f"{where} cannot be read: {told}") from error


def _npz(path: Path) -> dict[str, Held]:
    def held(name: str, told: archive.Declared) -> Held:
        return Held(told.shape, told.dtype, lambda: archive.read(path, {name: told})[name])

    return {name: held(name, told) for name, told in archive.declared(path).items()}


def _safetensors(path: Path) -> dict[str, Held]:
    def held(name: str, place: safetensors_file.Place) -> Held:
        numbers = functools.partial(safetensors_file.read_array, path, place)
        read = functools.partial(_guarded, f"{path}: {name!r}", numbers)
        return Held(place.shape, jnp.dtype(place.dtype), read)

    places = _guarded(str(path), lambda: safetensors_file.places(path))
    return {name: held(name, place) for name, place in places.items()}


def _chosen(where: str, content: Any, entry: str | None) -> Mapping[str, Any]:
    """The state dict within what a checkpoint holds."""
    if isinstance(content, TensorRecord) or not isinstance(content, Mapping):
        raise ValueError(f"{where} holds a {type(content).__name__} instead of a state dict")
    inner = [key for key, value in content.items() if _is_state_dict(value)]
    if entry is not None:
        if entry not in inner:
            raise ValueError(f"{where} holds no state dict {entry!r}; it holds: {inner or 'none'}")
        return content[entry]
    usual = [key for key in ENTRIES if key in inner]
    if len(usual or inner) == 1:
        return content[(usual or inner)[0]]
    # A lone tensor beside state dicts is a loss or an accuracy.
    if not inner and _is_state_dict(content):
        return content
    if inner:
        raise ValueError(f"{where} holds several state dicts; choose one by entry=: {inner}")
    raise ValueError(f"{where} holds no tensors; its keys: {[str(key) for key in content][:8]}")


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and any(hasattr(tensor, "shape") for tensor in value.values())
        and all(isinstance(key, str) for key in value)
    )


def _arrays(
    where: str,
    state: Mapping[str, Any],
    record: Callable[[TensorRecord], np.ndarray] | None = None,
) -> dict[str, Held]:
    def held(name: str, tensor: Any) -> Held:
        if record is not None and isinstance(tensor, TensorRecord):
            read = functools.partial(
                _guarded, f"{where}: {name!r}", functools.partial(record, tensor)
            )
            return Held(tensor.shape, jnp.dtype(tensor.storage.dtype), read)
        if hasattr(tensor, "detach"):
            # NumPy has no bfloat16 to take a tensor of that type as it is.
            plain = tensor.detach().cpu()
            tensor = (plain.double() if plain.is_floating_point() else plain).numpy()
        if not isinstance(tensor, np.ndarray | np.generic) and not hasattr(tensor, "shape"):
            raise ValueError(f"{where}: {name!r} is a {type(tensor).__name__}, not a tensor")
        array = np.asarray(tensor)
        return Held(array.shape, array.dtype, lambda: array)

    return {name: held(name, tensor) for name, tensor in state.items()}
