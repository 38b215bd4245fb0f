"""What training on bounds does to a network: filters, activations and the slack of its bounds.

Figures 3.8 to 3.11 of Wong's thesis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from jaxrobust.data import to_inputs
from jaxrobust.duals import hidden_boxes, lower_bounds, lp_bounds, margin_rows, prepare
from jaxrobust.types import Array, Key, LogitsFn, ThreatModel

from ..common.per_image import per_image
from .cascades import PAPER
from .learning import BATCH
from .subjects import Subject

SIGNS = ("always off", "crossing", "always on")
"""Units of the index sets I-, I and I+ of (3.20)."""


def kernels(subject: Subject) -> dict[str, np.ndarray]:
    """The kernels `[k, k, inputs, filters]` of a network's convolutions by name, in order."""
    layers = subject.variables.params
    return {
        name: np.asarray(layers[name]["kernel"])
        for name in sorted(layers)
        if np.ndim(layers[name].get("kernel", 0)) == 4
    }


def sparsity(subjects: Sequence[Subject], *, share: float = 1e-2) -> list[dict[str, Any]]:
    """A row per network: the share of weights below `share` of the layer's largest, and of filters
    whose weights all are, in %."""
    rows = []
    for subject in subjects:
        row: dict[str, Any] = {"method": subject.row.name}
        for name, kernel in kernels(subject).items():
            small = np.abs(kernel) < share * np.abs(kernel).max()
            row[f"{name} weights"] = 100 * float(small.mean())
            row[f"{name} filters"] = 100 * float(small.all(axis=(0, 1, 2)).mean())
        rows.append(row)
    return rows


def signs(threat: ThreatModel, key: Key, f: LogitsFn, x: Array, y: Array) -> list[Array]:
    """For each ReLU layer the shares `[3]` of its units that are off, crossing and on in a ball."""
    del key, y
    shares = []
    for box in hidden_boxes(prepare(f, x, threat), **PAPER):
        off, on = box.upper <= 0, box.lower >= 0
        shares.append(jax.numpy.stack([off.mean(), (~off & ~on).mean(), (on & ~off).mean()]))
    return shares


def activations(subject: Subject) -> list[np.ndarray]:
    """For each ReLU layer the shares `[N, 3]` of every image."""
    measure = Partial(signs, subject.threat)
    return per_image(measure, subject.model, subject.variables, subject.examples, batch_size=BATCH)


def activation_rows(found: Mapping[str, Sequence[np.ndarray]]) -> list[dict[str, Any]]:
    """A row per network and layer: mean shares in %."""
    return [
        {
            "method": f"{name}, layer {index}",
            **dict(zip(SIGNS, (100 * layer.mean(axis=0)).tolist(), strict=True)),
        }
        for name, layers in found.items()
        for index, layer in enumerate(layers, 1)
    ]


def slack(subject: Subject, count: int) -> np.ndarray:
    """How far the dual's margins lie below those of the linear program on the same boxes, `[M]`.

    All margins of the first `count` images, as a share of the mean absolute logit gap there.
    """
    f = subject.model.logits_fn(subject.variables)
    examples = subject.examples.first(count)
    logits = jax.jit(f)
    dual = jax.jit(lambda x, rows: lower_bounds(f, x, rows, subject.threat, **PAPER))
    found = []
    for x, y in zip(np.asarray(to_inputs(examples.x)), examples.y, strict=True):
        values = np.asarray(logits(x))
        rows = np.asarray(margin_rows(jax.numpy.int32(y), len(values), values.dtype))
        rows = np.delete(rows, y, axis=0)
        program = lp_bounds(f, x, rows, subject.threat, **PAPER)
        found.append((program - np.asarray(dual(x, rows))) / np.abs(rows @ values).mean())
    return np.concatenate(found)


def slack_rows(found: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """A row per network: median, 90th percentile and largest, in % of the mean logit gap."""
    rows = []
    for name, values in found.items():
        median, high = np.percentile(values, (50, 90))
        own = {"median": median, "90th percentile": high, "largest": values.max()}
        rows.append({"method": name, **{k: 100 * float(v) for k, v in own.items()}})
    return rows
