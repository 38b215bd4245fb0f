"""Trained models in files that other programs read: weights by name, and the classifier itself."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxrobust import archive, checks
from jaxrobust.files import PathLike, write_bytes_atomic
from jaxrobust.models import ModelLike, as_model, as_variables
from jaxrobust.types import Array, PyTree, Variables

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
"""What safetensors calls the types of numbers."""

PLATFORMS = ("cpu", "cuda", "tpu")
"""Where an exported classifier runs."""


def safetensors(
    variables: Variables, path: PathLike, *, metadata: Mapping[str, str] | None = None
) -> Path:
    """Writes weights as a safetensors file, which PyTorch, Hugging Face's tools and others read.

    The names are those of the tree, such as `params/dense1/kernel`, and shapes and layouts are kept
    as they are: kernels of Flax have their input channels before the output channels. The file is
    written atomically.

    Args:
      variables: the weights of a model, for example `run.state.variables`.
      path: the file.
      metadata: further texts by name, which the file's header shows.

    Returns:
      The path.

    Raises:
      TypeError: no `Variables`.
      ValueError: a leaf of a type that the format does not know, such as a random key.
      OSError: the file cannot be written.
    """
    arrays = _named(variables)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    parts, end = [], 0
    # Wide types first: all then lie at multiples of their size.
    for name, array in sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])):
        if array.dtype.name not in DTYPES:
            raise ValueError(f"safetensors knows no arrays of {array.dtype}: see {name}")
        data = array.astype(array.dtype.newbyteorder("<")).tobytes()
        header[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [end, end + len(data)],
        }
        parts.append(data)
        end += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return write_bytes_atomic(path, len(text).to_bytes(8, "little") + text + b"".join(parts))


def npz(variables: Variables, path: PathLike) -> Path:
    """Writes weights as an .npz file of NumPy, by the names that `safetensors` gives them.

    NumPy has no bfloat16, which becomes float32, without loss. The file is written atomically.

    Args:
      variables: the weights of a model.
      path: the file.

    Returns:
      The path.

    Raises:
      TypeError: no `Variables`.
      ValueError: a leaf that holds no numbers, such as a random key.
      OSError: the file cannot be written.
    """
    arrays = {
        name: array.astype(np.float32) if array.dtype == jnp.bfloat16 else array
        for name, array in _named(variables).items()
    }
    return write_bytes_atomic(path, archive.packed(arrays))


def load_npz(path: PathLike) -> Variables:
    """Reads the weights that `npz` wrote.

    Args:
      path: the file.

    Returns:
      The variables, trees of dicts of NumPy arrays: what `training.fit(variables=...)` and models
      of Flax modules take.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is broken, or was not written by `npz`.
    """
    path = _there(path)
    told = archive.declared(path)
    trees: dict[str, Any] = {field: {} for field in Variables._fields}
    for name, array in archive.read(path, told).items():
        *folders, leaf = name.split("/")
        if not folders or folders[0] not in trees:
            raise ValueError(
                f"{path} holds {name!r}, and weights are called params/... or stats/...; "
                "it was not written by export.npz"
            )
        inner = trees
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[leaf] = array
    return Variables(**trees)


def stablehlo(
    model: ModelLike,
    variables: PyTree,
    path: PathLike,
    *,
    shape: Sequence[int],
    platforms: Sequence[str] = PLATFORMS,
) -> Path:
    """Writes the classifier with its weights as StableHLO, in the container of `jax.export`.

    It runs on any number of examples, without the code of the model, and later versions of JAX read
    it. Its gradient is written too, with a second copy of the weights. The file is written
    atomically.

    Args:
      model: the classifier, see `models.as_model`; it is written in evaluation mode.
      variables: its weights, see `models.as_variables`.
      path: the file.
      shape: of one example, such as (32, 32, 3); examples are float32.
      platforms: where it is to run.

    Returns:
      The path.

    Raises:
      TypeError: no model.
      ValueError: the model cannot be traced on such examples, or the package flatbuffers, in which
        JAX writes such files, is not installed.
      OSError: the file cannot be written.
    """
    _require_flatbuffers()
    for side in shape:
        checks.at_least("shape", side, 1)
    model = as_model(model)
    variables = as_variables(model, variables)
    (count,) = jax.export.symbolic_shape("b")
    # Example by example: the model's code may do with the number of examples what it likes.
    classify = jax.jit(jax.vmap(model.logits_fn(variables)))
    try:
        made = jax.export.export(classify, platforms=platforms)(
            jax.ShapeDtypeStruct((count, *shape), jnp.float32)
        )
        data = made.serialize(vjp_order=1)
    except Exception as error:
        # Models are code of any kind, and so are their errors.
        raise ValueError(
            f"the model cannot be exported for examples of shape {tuple(shape)} "
            f"({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})"
        ) from error
    return write_bytes_atomic(path, bytes(data))


def load_stablehlo(path: PathLike) -> Callable[[Array], Array]:
    """Reads the classifier that `stablehlo` wrote.

    Args:
      path: the file.

    Returns:
      A function of examples `[B, ...]`, float32, that returns logits `[B, K]`; it can be jitted and
      differentiated once.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is broken, or no such classifier; or flatbuffers is not installed.
    """
    path = _there(path)
    _require_flatbuffers()
    try:
        return jax.export.deserialize(bytearray(path.read_bytes())).call
    except OSError:
        raise
    except Exception as error:
        # Foreign bytes fail in many ways.
        raise ValueError(
            f"{path} is no classifier that export.stablehlo wrote ({type(error).__name__}: {error})"
        ) from error


def _named(variables: Variables) -> dict[str, np.ndarray]:
    """The leaves by the names on their way, such as params/dense1/kernel."""
    if not isinstance(variables, Variables):
        raise TypeError(
            "export takes the Variables of a model, such as run.state.variables or "
            f"Variables(params, batch_stats), got {type(variables).__name__}"
        )
    named = {}
    for way, leaf in jax.tree_util.tree_leaves_with_path(variables):
        name = jax.tree_util.keystr(way, simple=True, separator="/")
        if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.extended):
            raise ValueError(f"{name} holds {leaf.dtype}, which is no number; export weights alone")
        named[name] = np.asarray(leaf)
    return named


def _require_flatbuffers() -> None:
    if importlib.util.find_spec("flatbuffers") is None:
        raise ValueError(
            "JAX keeps exported programs by the package flatbuffers; install it with: "
            "pip install flatbuffers"
        )


def _there(path: PathLike) -> Path:
    found = Path(path)
    if not found.is_file():
        raise FileNotFoundError(f"there is no file {found}")
    return found
