"""ONNX files that are made in a test, and what other implementations make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

INPUT, OUTPUT = "x", "y"


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    """A node; names of values are separated by blanks, and "-" is one that is left out."""
    names = [["" if n == "-" else n for n in text.split()] for text in (inputs, outputs)]
    return onnx.helper.make_node(kind, *names, name=f"{kind} of {outputs}", **attributes)


def save(
    path: Path,
    nodes: Sequence[Any],
    arrays: Mapping[str, np.ndarray],
    shape: Sequence[int | str],
    *,
    opset: int = 17,
    outputs: Sequence[str] = (OUTPUT,),
) -> Path:
    """Writes a network of one input to a file."""
    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        list(nodes),
        "made",
        [onnx.helper.make_tensor_value_info(INPUT, floats, shape)],
        [onnx.helper.make_tensor_value_info(name, floats, None) for name in outputs],
        [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()],
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def reference(path: Path, x: np.ndarray) -> np.ndarray:
    """The output for the file's own input, by onnxruntime where it is installed, else by onnx."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(str(path)).run(None, {INPUT: x})[0]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {INPUT: x})[0]
