"""Makes networks and instances like those of the verification competition, for trials by hand.

    TFDS_DATA_DIR=... python -m tests.duals.competition_like FOLDER [--only mnist-256x2 acas]

Trains on MNIST (a minute at most each on one core) and on a made-up function of five inputs, and
writes onnx/*.onnx, vnnlib/*.vnnlib and instances.csv (network, property, seconds). Needs `onnx`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import optax
from onnx import TensorProto, helper, numpy_helper

from jaxrobust import data

SECONDS = 60
Weights = list[tuple[jax.Array, jax.Array]]


@dataclasses.dataclass
class Writer:
    """An ONNX graph in the making: a chain of nodes."""

    last: str = "input"
    nodes: list[onnx.NodeProto] = dataclasses.field(default_factory=list)
    arrays: list[onnx.TensorProto] = dataclasses.field(default_factory=list)

    def add(self, kind: str, *arrays: np.ndarray, **attributes: object) -> None:
        """A node on the last value and on arrays."""
        names = [f"{kind.lower()}_{len(self.nodes)}_{i}" for i in range(len(arrays))]
        self.arrays += [
            numpy_helper.from_array(np.asarray(a), n) for a, n in zip(arrays, names, strict=True)
        ]
        target = f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.last, *names], [target], **attributes))
        self.last = target

    def save(self, path: Path, shape: Sequence[int], outputs: int) -> None:
        """Writes the file; `shape` is that of the input."""
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
            for name, size in (("input", shape), (self.last, (1, outputs)))
        ]
        graph = helper.make_graph(self.nodes, path.stem, ends[:1], ends[1:], self.arrays)
        opsets = [helper.make_opsetid("", 13)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        onnx.checker.check_model(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)


def he(key: jax.Array, shape: tuple[int, ...], fan_in: int) -> jax.Array:
    return jax.random.normal(key, shape) * np.sqrt(2 / fan_in)


def dense(sizes: Sequence[int], gain: float = 1.0) -> Weights:
    keys = jax.random.split(jax.random.key(0), len(sizes))
    pairs = zip(keys, sizes, sizes[1:], strict=False)
    return [(gain * he(k, (n, m), n), jnp.zeros(m)) for k, n, m in pairs]


def run_dense(activation: Callable, weights: Weights, x: jax.Array) -> jax.Array:
    x = x.reshape(len(x), -1)
    for w, b in weights[:-1]:
        x = activation(x @ w + b)
    w, b = weights[-1]
    return x @ w + b


STRIDES = (2, 1)
"""Of the two convolutions; a pooling of 2 x 2 follows each."""


def conv_weights() -> Weights:
    keys = jax.random.split(jax.random.key(1), 2)
    kernels = [he(keys[0], (8, 1, 5, 5), 25), he(keys[1], (16, 8, 3, 3), 72)]
    return [(k, jnp.zeros(len(k))) for k in kernels] + dense([64, 50, 10])


def run_conv(weights: Weights, x: jax.Array) -> jax.Array:
    x = x.reshape(len(x), 1, 28, 28)
    for stride, (w, b) in zip(STRIDES, weights[:2], strict=True):
        x = jax.lax.conv(x, w, (stride, stride), "VALID") + b.reshape(1, -1, 1, 1)
        n, c, h, _ = x.shape
        x = jax.nn.relu(x.reshape(n, c, h // 2, 2, h // 2, 2).max((3, 5)))
    return run_dense(jax.nn.relu, weights[2:], x)


def trained(
    run: Callable,
    weights: Weights,
    x: np.ndarray,
    y: np.ndarray,
    loss: Callable,
    *,
    epochs: int,
    rate: float = 1e-3,
    decay: float = 1e-3,
) -> Weights:
    """AdamW with a linear schedule to 0, batches of 128."""
    count = len(x) // 128
    optimizer = optax.adamw(optax.linear_schedule(rate, 0, epochs * count), weight_decay=decay)

    @jax.jit
    def epoch(weights: Weights, state: object, order: jax.Array) -> tuple[Weights, object]:
        def step(carry: tuple, rows: jax.Array) -> tuple[tuple, None]:
            weights, state = carry
            slope = jax.grad(lambda w: loss(run(w, held[rows]), told[rows]).mean())(weights)
            changes, state = optimizer.update(slope, state, weights)
            return (optax.apply_updates(weights, changes), state), None

        return jax.lax.scan(step, (weights, state), order)[0]

    held, told, state = jnp.asarray(x), jnp.asarray(y), optimizer.init(weights)
    for number in range(epochs):
        order = jax.random.permutation(jax.random.key(number), len(x))[: 128 * count]
        weights, state = epoch(weights, state, order.reshape(count, 128))
    return weights


def box_lines(lower: np.ndarray, upper: np.ndarray, outputs: int) -> Iterator[str]:
    """Declarations and bounds in the competition's style."""
    yield from (f"(declare-const X_{i} Real)" for i in range(len(lower)))
    yield from (f"(declare-const Y_{i} Real)" for i in range(outputs))
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        yield f"(assert (<= X_{i} {high!r}))\n(assert (>= X_{i} {low!r}))"


def save_property(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([f"; {path.stem}", *lines]) + "\n")


def image_instances(
    folder: Path, name: str, predict: Callable, radii: Sequence[float], count: int, test: data.Split
) -> list[tuple[str, str, int]]:
    """The first test images that are classified correctly, at each radius in turn."""
    rows = []
    images = np.asarray(test.x[:100], np.float64).reshape(100, -1) / 255
    right = np.asarray(predict(jnp.asarray(images, jnp.float32)).argmax(-1)) == test.y[:100]
    for index in np.flatnonzero(right)[:count]:
        for radius in radii:
            x, y = images[index], int(test.y[index])
            low, high = np.clip(x - radius, 0, 1).tolist(), np.clip(x + radius, 0, 1).tolist()
            wrong = " ".join(f"(and (>= Y_{j} Y_{y}))" for j in range(10) if j != y)
            path = folder / "vnnlib" / f"{name}-{index}-{radius}.vnnlib"
            save_property(path, [*box_lines(low, high, 10), f"(assert (or {wrong}))"])
            rows.append((f"onnx/{name}.onnx", f"vnnlib/{path.name}", SECONDS))
    return rows


def write_dense(writer: Writer, weights: Weights, activation: str) -> None:
    for i, (w, b) in enumerate(weights):
        writer.add("Gemm", np.asarray(w).T.copy(), np.asarray(b), transB=1)
        if i < len(weights) - 1:
            writer.add(activation)


DENSE = {
    "mnist-256x2": (2, 256, "Relu", (0.03, 0.05)),
    "mnist-256x4": (4, 256, "Relu", (0.03, 0.05)),
    "mnist-256x6": (6, 256, "Relu", (0.03, 0.05)),
    "mnist-sigmoid": (3, 100, "Sigmoid", (0.015, 0.03)),
}
"""Hidden layers, their width, activation and radii."""


def mnist_dense(folder: Path, name: str, digits: data.Dataset) -> list[tuple[str, str, int]]:
    depth, width, kind, radii = DENSE[name]
    sizes = [784, *[width] * depth, 10]
    activation = jax.nn.relu if kind == "Relu" else jax.nn.sigmoid
    run = functools.partial(run_dense, activation)
    x = np.asarray(digits.train.x, np.float32).reshape(-1, 784) / np.float32(255)
    loss = optax.softmax_cross_entropy_with_integer_labels
    start = dense(sizes, 1.0 if kind == "Relu" else 2.0)
    weights = trained(run, start, x, digits.train.y, loss, epochs=3)
    writer = Writer()
    writer.add("Flatten")
    write_dense(writer, weights, kind)
    writer.save(folder / "onnx" / f"{name}.onnx", (1, 784), 10)
    return image_instances(folder, name, functools.partial(run, weights), radii, 5, digits.test)


def mnist_conv(folder: Path, name: str, digits: data.Dataset) -> list[tuple[str, str, int]]:
    x = np.asarray(digits.train.x[:30_000], np.float32).reshape(-1, 1, 28, 28) / np.float32(255)
    loss = optax.softmax_cross_entropy_with_integer_labels
    weights = trained(run_conv, conv_weights(), x, digits.train.y[:30_000], loss, epochs=2)
    writer = Writer()
    for stride, (w, b) in zip(STRIDES, weights[:2], strict=True):
        writer.add("Conv", np.asarray(w), np.asarray(b), strides=[stride, stride])
        writer.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
        writer.add("Relu")
    writer.add("Flatten")
    write_dense(writer, weights[2:], "Relu")
    writer.save(folder / "onnx" / f"{name}.onnx", (1, 1, 28, 28), 10)
    predict = functools.partial(run_conv, weights)
    return image_instances(folder, name, predict, (0.01, 0.03), 5, digits.test)


def scores(x: np.ndarray) -> np.ndarray:
    """A smooth function of five inputs in [-.5, .5] with five outputs."""
    rho, theta, psi, own, other = x.T
    turn = np.stack([0 * rho, theta - 0.5 * psi, psi - 0.5 * theta, theta + psi, -theta - psi], -1)
    near = np.exp(-3 * (rho + 0.5))[:, None]
    speed = (0.3 * own - 0.2 * other)[:, None]
    price = np.array([0, 0.05, 0.05, 0.12, 0.12])
    weak = near * np.array([0.7, 0.25, 0.25, 0.1, 0.1]) * (1 + speed)
    return weak + price + 0.25 * near * np.sin(4 * turn)


def acas(folder: Path, name: str, digits: data.Dataset | None) -> list[tuple[str, str, int]]:
    """Six layers of 50, and properties of its five outputs on boxes of its five inputs."""
    del digits
    draw = np.random.default_rng(0)
    x = draw.uniform(-0.5, 0.5, (50_000, 5)).astype(np.float32)
    y = scores(x.astype(np.float64)).astype(np.float32)
    run = functools.partial(run_dense, jax.nn.relu)
    start = dense([5, *[50] * 6, 5])
    weights = trained(run, start, x, y, optax.l2_loss, epochs=30, decay=1e-5)
    writer = Writer()
    writer.add("Sub", np.zeros((1, 1, 1, 5), np.float32))
    writer.add("Flatten")
    for i, (w, b) in enumerate(weights):
        writer.add("MatMul", np.asarray(w))
        writer.add("Add", np.asarray(b))
        if i < len(weights) - 1:
            writer.add("Relu")
    writer.save(folder / "onnx" / f"{name}.onnx", (1, 1, 1, 5), 5)
    rows = []
    for number in range(12):
        half = draw.uniform(0.03, 0.3, 5) * (0.5 if number % 2 else 1)
        center = draw.uniform(-0.5, 0.5, 5)
        lower, upper = np.clip(center - half, -0.5, 0.5), np.clip(center + half, -0.5, 0.5)
        points = draw.uniform(lower, upper, (5000, 5)).astype(np.float32)
        seen = np.asarray(run(weights, jnp.asarray(points)))
        path = folder / "vnnlib" / f"{name}-{number}.vnnlib"
        lines = [*box_lines(lower.tolist(), upper.tolist(), 5), *_question(number, seen)]
        save_property(path, lines)
        rows.append((f"onnx/{name}.onnx", f"vnnlib/{path.name}", SECONDS))
    return rows


def _question(number: int, seen: np.ndarray) -> list[str]:
    """What is unsafe: an output that is large, or one that is the least or is not."""
    least = np.bincount(seen.argmin(1), minlength=5)
    if number % 3 == 0:
        top = float(seen[:, 0].max())
        room = 0.1 * float(np.ptp(seen[:, 0])) * (1 if number % 2 else 0.2)
        return [f"(assert (>= Y_0 {top + room!r}))"]
    if number % 3 == 1:
        rare = int(least.argmin())
        return [f"(assert (<= Y_{rare} Y_{j}))" for j in range(5) if j != rare]
    usual = int(least.argmax())
    other = [j for j in range(5) if j != usual]
    parts = " ".join(
        "(and " + " ".join(f"(<= Y_{i} Y_{j})" for j in range(5) if j != i) + ")" for i in other
    )
    return [f"(assert (or {parts}))"]


MAKERS = {
    **{name: functools.partial(mnist_dense, name=name) for name in DENSE},
    "mnist-conv": functools.partial(mnist_conv, name="mnist-conv"),
    "acas": functools.partial(acas, name="acas"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", choices=MAKERS, default=list(MAKERS))
    given = parser.parse_args()
    digits = data.load("mnist") if any(name != "acas" for name in given.only) else None
    rows, file = [], given.folder / "instances.csv"
    if file.is_file():  # those of other networks stay
        own = tuple(f"onnx/{name}.onnx," for name in given.only)
        rows = [r.split(",") for r in file.read_text().splitlines() if not r.startswith(own)]
    for name in given.only:
        made = MAKERS[name](given.folder, digits=digits)
        print(f"{name}: {len(made)} instances", flush=True)
        rows += made
        lines = [",".join(map(str, row)) for row in rows]
        file.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
