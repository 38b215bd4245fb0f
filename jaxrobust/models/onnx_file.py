"""ONNX files: networks with their weights as models of this library."""

from __future__ import annotations

import gzip
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.models.onnx_network import OPERATORS, Batched, Network
from jaxrobust.models.onnx_operation import Constant, Operation
from jaxrobust.models.remembered import OwnValues
from jaxrobust.types import Model, Variables

OLDEST = 7
"""The first version of the operators in which arithmetic broadcasts as it does today."""
KNOWN_FLOATS = {"Clip", "Dropout", "Max", "Min", "Pad", "Pow", "Resize", "Upsample"}
"""Operators whose numbers are part of the function, and no weights."""
STATISTICS = slice(3, 5)
"""Inputs of a `BatchNormalization` that training does not learn."""


def from_onnx(
    path: str | os.PathLike[str], *, shape: Sequence[int] | None = None
) -> tuple[Model, Variables]:
    """Reads a network from an ONNX file, .onnx or .onnx.gz, with the package `onnx`.

    An example is the file's input without its first axis, where that is a batch: of size 1, or of
    one that the file leaves open. Its layout stays as it is, for images `[C, H, W]`; around
    `models.channels_first` images have channels last. Outputs are flattened to `[K]`. Everything
    is computed in the type of the example, float32 or float64; weights in float64 become float32
    unless 64-bit types are enabled. `model.apply.network.shape` is the shape of an example.

    Weights are arguments of the function, in `params`, and statistics of batch normalizations in
    `stats`, by their names in the file. Two files that differ by weights alone share compiled
    programs: `model.apply` of one equals that of the other.

    Args:
      path: the file; weights that it keeps in files of their own lie beside it.
      shape: of one example, where the file leaves sizes beside the batch's open.

    Returns:
      (model, variables): from a batch `[B, ...]` to outputs `[B, K]`, and its numbers.

    Raises:
      ModuleNotFoundError: `onnx` is not installed.
      FileNotFoundError: a missing file.
      ValueError: no ONNX file, an operator that is not known, or one that does not fit its operands
        (the message names it and its node); several inputs or outputs; sizes that are not told;
        numbers that are not finite.

    Example (onnx is an optional package):
      model, variables = models.from_onnx("mnist.onnx")
      duals.verify(model.logits_fn(variables), x, y, threats.Linf(0.03))
    """
    with checks.extra("onnx"):
        onnx = importlib.import_module("onnx")
    path = Path(path)
    graph, opset = _graph(onnx, path)
    numbers = _numbers(onnx, path, graph)
    source, target = _ends(path, graph, numbers)
    operations = _operations(onnx, path, graph, opset, target.name)
    batched, example = _example(path, source, shape)
    constants, params, stats = _sorted(numbers, operations)
    for name, array in {**params, **stats}.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {name!r} holds NaN or infinite numbers")
    network = Network(
        source.name, example, batched, target.name,
        tuple((name, Constant.of(array)) for name, array in constants.items()), operations,
    )  # fmt: skip
    variables = Variables(*(jax.tree.map(jnp.asarray, tree) for tree in (params, stats)))
    _tried(path, network, variables)
    return Model(OwnValues(variables), Batched(network)), variables


def _graph(onnx: ModuleType, path: Path) -> tuple[Any, int]:
    """The graph of a file, and the version of its operators."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        if path.suffix == ".gz":
            held = onnx.load_model_from_string(gzip.decompress(path.read_bytes()))
        else:
            held = onnx.load(path)
    # protobuf, zlib and onnx have errors of their own
    except Exception as error:
        raise ValueError(f"{path} is no ONNX file, or a damaged one ({error})") from error
    versions = [o.version for o in held.opset_import if o.domain in ("", "ai.onnx")]
    if not versions or not held.graph.output:
        raise ValueError(f"{path} is no ONNX file of a network: it holds no graph of operators")
    if versions[0] < OLDEST:
        raise ValueError(
            f"{path} has operators of version {versions[0]}; convert it to {OLDEST} or newer with "
            "onnx.version_converter"
        )
    return held.graph, versions[0]


def _numbers(onnx: ModuleType, path: Path, graph: Any) -> dict[str, np.ndarray]:
    """All arrays in a graph by name: initializers and constants."""
    found = {tensor.name: _array(onnx, path, tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            settings = _settings(onnx, path, node)
            if len(settings) != 1:
                raise ValueError(f"{path}: the constant {_name(node)!r} has not just one value")
            ((_, value),) = settings
            found[node.output[0]] = value.array if isinstance(value, Constant) else _plain(value)
    return found


def _plain(value: Any) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _array(onnx: ModuleType, path: Path, tensor: Any) -> np.ndarray:
    try:
        array = onnx.numpy_helper.to_array(tensor)
    except Exception as error:
        raise ValueError(f"{path}: the array {tensor.name!r} cannot be read ({error})") from error
    # float16 and bfloat16 are float32 exactly
    short = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4
    return array.astype(np.float32) if short else array


def _settings(onnx: ModuleType, path: Path, node: Any) -> tuple[tuple[str, Any], ...]:
    """The attributes of a node, as values with hashes."""
    found = []
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, onnx.TensorProto):
            value = Constant.of(_array(onnx, path, value))
        elif isinstance(value, bytes):
            value = value.decode(errors="replace")
        elif hasattr(value, "__iter__"):
            value = tuple(value)
        parts = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(v, int | float | str | bytes | Constant) for v in parts):
            raise ValueError(
                f"{path}: the operator {node.op_type!r} of node {_name(node)!r} has an attribute "
                f"{attribute.name!r} that is not known here"
            )
        found.append((attribute.name, value))
    # what is no UTF-8 comes as bytes
    return tuple(sorted(found, key=lambda pair: str(pair[0])))


def _name(node: Any) -> str:
    return node.name or ", ".join(node.output)


def _ends(path: Path, graph: Any, numbers: dict[str, np.ndarray]) -> tuple[Any, Any]:
    """The one input and the one output."""
    sources = [value for value in graph.input if value.name not in numbers]
    for kind, values in (("input", sources), ("output", list(graph.output))):
        if len(values) != 1:
            told = ", ".join(value.name for value in values) or "none"
            raise ValueError(f"{path}: networks of one {kind} are read, and this has: {told}")
    return sources[0], graph.output[0]


def _operations(
    onnx: ModuleType, path: Path, graph: Any, opset: int, target: str
) -> tuple[Operation, ...]:
    """The nodes that the output depends on, in order."""
    needed, nodes = {target}, []
    for node in reversed(graph.node):
        if needed.isdisjoint(node.output) or node.op_type == "Constant":
            continue
        needed.update(node.input)
        nodes.append(node)
    if not nodes:
        raise ValueError(f"{path}: no operator computes the output {target!r}")
    for node in nodes:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise ValueError(
                f"{path}: the operator {kind!r} of node {_name(node)!r} is not known; known are: "
                f"Constant, {', '.join(sorted(OPERATORS))}"
            )
    return tuple(
        Operation(
            node.op_type, tuple(node.input), tuple(node.output),
            _settings(onnx, path, node), opset, _name(node),
        )
        for node in reversed(nodes)
    )  # fmt: skip


def _example(path: Path, source: Any, shape: Sequence[int] | None) -> tuple[bool, tuple[int, ...]]:
    """Whether the input has an axis for a batch, and the shape of one example."""
    held = source.type.tensor_type
    if held.elem_type not in (1, 11):
        raise ValueError(f"{path}: the input {source.name!r} is not of float32 or float64")
    # what the file leaves open is 0
    sizes = [dim.dim_value for dim in held.shape.dim]
    batched = len(sizes) > 0 and sizes[0] <= 1 and (len(sizes) > 1 or shape is not None)
    told = tuple(sizes[1:] if batched else sizes)
    if shape is not None:
        for size in shape:
            checks.at_least("a size of shape", size, 1)
        fits = len(told) == len(shape) and all(
            a in (0, b) for a, b in zip(told, shape, strict=True)
        )
        if sizes and not fits:
            raise ValueError(f"{path} takes examples {told} (0: open), not of shape {tuple(shape)}")
        return batched or not sizes, tuple(shape)
    if not told or 0 in told:
        raise ValueError(
            f"{path}: the file does not tell the shape of its input {source.name!r}, {sizes}; give "
            "that of one example as `shape`"
        )
    return batched, told


def _sorted(
    numbers: dict[str, np.ndarray], operations: Sequence[Operation]
) -> tuple[dict[str, np.ndarray], ...]:
    """What is part of the function, what is trained, and statistics of batches."""
    used = {name for operation in operations for name in operation.inputs}
    fixed, learned = set(), set()
    for operation in operations:
        if operation.kind in KNOWN_FLOATS:
            fixed.update(operation.inputs)
        if operation.kind == "BatchNormalization":
            learned.update(operation.inputs[STATISTICS])
    constants, params, stats = {}, {}, {}
    for name in sorted(used & set(numbers)):
        array = numbers[name]
        plain = name in fixed or not np.issubdtype(array.dtype, np.floating)
        (constants if plain else stats if name in learned else params)[name] = array
    return constants, params, stats


def _tried(path: Path, network: Network, variables: Variables) -> None:
    """Traces the network once: what does not fit shows."""
    example = jax.ShapeDtypeStruct(network.shape, jnp.float32)
    try:
        jax.eval_shape(network, variables, example)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
