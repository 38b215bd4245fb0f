"""Counterexamples in the competition's format, after a look at them by another implementation."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrobust.types import LogitsFn

OURS = "this library"


class Replay(NamedTuple):
    """What a network says at a point."""

    by: str
    """Who computed it."""
    outputs: np.ndarray


def replayed(path: Path, f: LogitsFn, x: np.ndarray) -> Replay:
    """The outputs `[K]` of a network at one example, by onnxruntime where it is at hand.

    Args:
      path: the network's file. f: the same as read here.
    """
    ours = np.asarray(f(x)).ravel()
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return Replay(f"{OURS}; onnxruntime is not installed", ours)
    try:
        held = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else str(path)
        session = onnxruntime.InferenceSession(held, providers=["CPUExecutionProvider"])
        (source,) = session.get_inputs()
        dtype = np.float64 if source.type == "tensor(double)" else np.float32
        batch = len(source.shape) > x.ndim
        value = x.astype(dtype)[None] if batch else x.astype(dtype)
        return Replay("onnxruntime", session.run(None, {source.name: value})[0].ravel())
    # onnxruntime has errors of its own, for operators and versions that it does not know
    except Exception as error:
        return Replay(f"{OURS}; onnxruntime says: {error}", ours)


def written(x: np.ndarray, outputs: np.ndarray) -> str:
    """The competition's text: "sat", then all inputs and outputs by name."""
    named = [f"(X_{i} {float(v)!r})" for i, v in enumerate(np.ravel(x))]
    named += [f"(Y_{i} {float(v)!r})" for i, v in enumerate(np.ravel(outputs))]
    return "sat\n(" + "\n".join(named) + ")\n"
