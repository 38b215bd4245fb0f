"""One instance of the competition: read, verified, and its counterexample replayed."""

from __future__ import annotations

import functools
import math
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import duals, models
from jaxrobust.duals import VnnlibProblem
from jaxrobust.types import LogitsFn, Model, Variables

from .counterexample import replayed, written
from .instances import Instance

WORDS = {"unsat": "verified", "sat": "falsified", "unknown": "unknown", "timeout": "unknown"}
"""The competition's words, and ours."""


class Answer(NamedTuple):
    """What is known of an instance."""

    result: str
    """One of `WORDS`, or "error"."""
    seconds: float
    subdomains: int = 0
    note: str = ""
    """Who replayed a counterexample, or what went wrong."""
    counterexample: str = ""
    """In the competition's format, for "sat"."""


def decide(instance: Instance) -> Answer:
    """Verifies an instance within its time, which is looked at between batches of subdomains.

    The boxes of a property share the time that is left; those that need more have it in the end.

    Raises:
      ValueError, FileNotFoundError: what `from_onnx` and `read_vnnlib` raise; a property of other
        numbers of inputs or outputs than the network's.
    """
    began = time.monotonic()
    model, variables = _network(instance.onnx)
    shape, f = model.apply.network.shape, model.logits_fn(variables)
    waiting = list(duals.read_vnnlib(instance.vnnlib))
    for problem in waiting:
        _require_fit(instance, shape, f, problem)
    subdomains, given_up = 0, False
    while waiting:
        later = []
        for place, problem in enumerate(waiting):
            left = instance.timeout - (time.monotonic() - began)
            if left <= 0:
                return Answer("timeout", time.monotonic() - began, subdomains)
            x, threat = duals.box_threat(problem.lower.reshape(shape), problem.upper.reshape(shape))
            share = left / (len(waiting) - place)
            verdict = duals.verify(f, jnp.asarray(x), problem.goal, threat, time_limit=share)
            subdomains += verdict.visited
            if verdict.status == "falsified":
                return _found(instance, f, problem, verdict.witness, subdomains, began)
            if verdict.status == "unknown" and verdict.seconds >= share:
                later.append(problem)
            given_up |= verdict.status == "unknown" and verdict.seconds < share
        waiting = later
    result = "unknown" if given_up else "unsat"
    return Answer(result, time.monotonic() - began, subdomains)


def _found(
    instance: Instance,
    f: LogitsFn,
    problem: VnnlibProblem,
    witness: np.ndarray,
    subdomains: int,
    began: float,
) -> Answer:
    """The answer where the network itself violates the property at a point, as computed here."""
    # boxes are rounded outwards: the file's own holds this point
    point = problem.inside(witness.ravel())
    by, outputs = replayed(instance.onnx, f, point.reshape(witness.shape).astype(witness.dtype))
    seconds = time.monotonic() - began
    if not problem.violated(outputs):
        note = f"a counterexample that is none by {by}: it is within rounding"
        return Answer("unknown", seconds, subdomains, note)
    return Answer("sat", seconds, subdomains, f"replayed by {by}", written(point, outputs))


@functools.lru_cache(maxsize=8)
def _network(path: Path) -> tuple[Model, Variables]:
    return models.from_onnx(path)


def _require_fit(
    instance: Instance, shape: tuple[int, ...], f: LogitsFn, problem: VnnlibProblem
) -> None:
    (outputs,) = jax.eval_shape(f, jax.ShapeDtypeStruct(shape, jnp.float32)).shape
    for kind, told, held in (
        ("inputs", len(problem.lower), math.prod(shape)),
        ("outputs", problem.goal.A.shape[1], outputs),
    ):
        if told != held:
            raise ValueError(
                f"{instance.vnnlib} is about {told} {kind}, but {instance.onnx} has {held}"
            )
