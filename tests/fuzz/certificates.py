"""Certificates against networks made to deceive them: cancellation, huge weights, tiny margins.

    python -m tests.fuzz.certificates --cases 5000 --seed 0

Every network has an output that its large intermediate values cancel to almost nothing, so that
rounding decides what is computed; the exact value at points of the ball comes from an arithmetic
twice as fine (float64 for float32, rationals for float64). A bound above an exact value is a fault.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxrobust import duals
from jaxrobust.threats import L1, L2, Linf, Union

METHODS = (
    ("interval",),
    ("wong_kolter",),
    ("crown",),
    ("interval", "wong_kolter", "crown"),
)
BALLS = {
    "linf": lambda r: Linf(r, -jnp.inf, jnp.inf),
    "l2": lambda r: L2(r, -jnp.inf, jnp.inf),
    "l1": lambda r: L1(r, -jnp.inf, jnp.inf),
    "union": lambda r: Union((Linf(r, -jnp.inf, jnp.inf), L2(2 * r, -jnp.inf, jnp.inf))),
}
HOWS = ("plain", "boxed", "chunked", "optimized", "radius", "cascade")
SHAPES = {
    "linear": (784, 2),
    "shallow": (784, 20, 2),
    "deep": (64, 20, 20, 2),
    "wide": (16, 300, 2),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A stack of networks with one example each, and how they are bounded."""

    shape: str
    activation: str
    ball: str
    methods: tuple[str, ...]
    how: str


ACTIVATIONS: dict[str, Callable] = {
    "relu": jax.nn.relu,
    "leaky_relu": lambda z: jax.nn.leaky_relu(z, 0.1),
    "clip": lambda z: jnp.clip(z, -1, 1),
    "max": lambda z: jnp.maximum(z, jnp.roll(z, 1)),
    "residual": lambda z: z + jax.nn.relu(z),
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "gelu": lambda z: jax.nn.gelu(z, approximate=False),
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "sin": jnp.sin,
    "soft_sign": jax.nn.soft_sign,
    "square": jnp.square,
    "product": lambda z: z * jnp.roll(z, 1),
    "quotient": lambda z: jnp.roll(z, 1) / (1 + jnp.square(z)),
    "softmax": jax.nn.softmax,
}
RATIONAL = ("relu", "clip", "max", "residual", "square", "product", "quotient")
"""Activations of rationals that are rational."""


def _mish(z: np.ndarray) -> np.ndarray:
    return z * np.tanh(np.logaddexp(z, 0))


_SMOOTH: dict[str, Callable] = {
    # the factor is the number of the network's type
    "gelu": lambda z: 0.5 * z * special.erfc(-z * float(np.float32(np.sqrt(0.5)))),
    "silu": lambda z: z * special.expit(z),
    "mish": _mish,
    "sin": np.sin,
    "soft_sign": lambda z: z / (1 + np.abs(z)),
    "softmax": lambda z: special.softmax(z),
}


def _exact(name: str, z: np.ndarray) -> np.ndarray:
    """The activation in the arithmetic of `z`: float64, or rationals."""
    zero = z * 0
    if name == "relu":
        return np.maximum(z, zero)
    if name == "leaky_relu":
        # the slope is the number of the network's type
        return np.where(z > 0, z, z * float(np.float32(0.1)))
    if name == "clip":
        return np.clip(z, zero - 1, zero + 1)
    if name == "max":
        return np.maximum(z, np.roll(z, 1))
    if name == "residual":
        return z + np.maximum(z, zero)
    if name == "tanh":
        return np.tanh(z)
    if name == "sigmoid":
        return 0.5 + 0.5 * np.tanh(0.5 * z)
    if name == "square":
        return z * z
    if name == "product":
        return z * np.roll(z, 1)
    if name == "quotient":
        return np.roll(z, 1) / (z * z + (zero + 1))
    if name in _SMOOTH:
        return _SMOOTH[name](z)
    return np.logaddexp(z, 0)


def network(activation: str, parameters: list) -> Callable:
    """The classifier of one example."""

    def f(x):
        for i, (matrix, bias) in enumerate(parameters):
            x = x if i == 0 else ACTIVATIONS[activation](x)
            x = matrix @ x + bias
        return x

    return f


def exact_margin(activation: str, parameters: list, x: np.ndarray, convert: Callable) -> object:
    """logit 0 minus logit 1 at `x`, in the arithmetic that `convert` leads to."""
    for i, (matrix, bias) in enumerate(parameters):
        x = x if i == 0 else _exact(activation, x)
        x = convert(matrix) @ x + convert(bias)
    return x[0] - x[1]


def rational(array: np.ndarray) -> np.ndarray:
    """Exact rationals of floats."""
    return np.vectorize(Fraction, otypes=[object])(np.asarray(array, np.float64))


def double(array: np.ndarray) -> np.ndarray:
    """float64."""
    return np.asarray(array, np.float64)


def deceptive(
    rng: np.random.Generator, shape: str, activation: str, dtype: type
) -> tuple[list, np.ndarray]:
    """Parameters and an example: hidden values of about .3 left of huge ones, logits of about 0."""
    sizes = SHAPES[shape]
    scale = 10 ** rng.uniform(0, 6)
    x = rng.uniform(size=sizes[0]).astype(dtype)
    parameters, value = [], double(x)
    for i, (rows, columns) in enumerate(zip(sizes[1:], sizes, strict=False)):
        last = i == len(sizes) - 2
        size = scale if not last or len(sizes) == 2 else 10 ** rng.uniform(-1, 1)
        matrix = (size * rng.normal(size=(rows, columns)) / np.sqrt(columns)).astype(dtype)
        left = double(matrix) @ value
        if last:
            # both logits near one another: what decides is below what rounding leaves
            unit = float(np.finfo(dtype).eps) * np.abs(double(matrix)) @ np.abs(value)
            bias = -left + rng.normal() + np.array([-1, 0]) * rng.uniform(0, 1) * unit.max()
        else:
            bias = -left + rng.normal(0, 0.5, size=rows)
        bias = bias.astype(dtype)
        parameters.append((matrix, bias))
        value = double(matrix) @ value + double(bias)
        value = value if last else _exact(activation, value)
    return parameters, x


def bound(case: Case, parameters: list, x: jax.Array, radius: jax.Array) -> jax.Array:
    """The lower bound of the margin that the library claims for one network."""
    f, ball = network(case.activation, parameters), BALLS[case.ball]
    threat = ball(radius)
    row = jnp.asarray([[1.0, -1.0]], x.dtype)
    if case.how == "optimized":
        return duals.optimized_bounds(f, x, row, threat, steps=3, methods=case.methods).lower[0]
    if case.how == "radius":
        found = duals.certified_radius(
            f, x, jnp.int32(0), threat, upper=radius + 1e-12, steps=3, methods=case.methods
        )
        return found.certificate.lower[1]
    if case.how == "cascade":
        held = duals.cascade_predict([f, f], x, threat, methods=case.methods)
        # a certified label claims a positive margin, of whatever size
        claimed = held.certified & (held.label == 0)
        return jnp.where(claimed, jnp.finfo(x.dtype).tiny, -jnp.inf)
    options = {"boxed": {"boxed": True}, "chunked": {"chunk": 7, "bucket": 5}}.get(case.how, {})
    return duals.lower_bounds(f, x, row, threat, methods=case.methods, **options)[0]


def cases(dtype: type, rng: np.random.Generator) -> Iterator[Case]:
    """Endless, each a random combination of what makes sense."""
    exact = [n for n in ACTIVATIONS if dtype == np.float32 or n in RATIONAL]
    while True:
        shape, how = rng.choice(list(SHAPES)), rng.choice(HOWS)
        activation, ball = rng.choice(exact), rng.choice(list(BALLS))
        methods = METHODS[rng.integers(len(METHODS))]
        if how == "optimized" and (shape == "linear" or methods == ("interval",)):
            continue
        yield Case(str(shape), str(activation), str(ball), methods, str(how))


def worst_direction(
    case: Case, parameters: list, x: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A direction of length 1 in which the margin falls, as far as slopes tell."""
    slope, *rest = (double(matrix) for matrix, _ in reversed(parameters))
    slope = slope[0] - slope[1]
    for matrix in rest:
        slope = (slope * rng.integers(0, 2, size=len(slope))) @ matrix
    if case.ball == "l1":
        first = np.argmax(np.abs(slope))
        return -np.sign(slope[first]) * (np.arange(len(x)) == first)
    if case.ball == "l2":
        # shorter by more than its own rounding
        return -slope / max(np.linalg.norm(slope), 1e-300) * (1 - 1e-12)
    return -np.sign(slope)


def faults(case: Case, *, seed: int, count: int, dtype: type) -> list[str]:
    """Bounds of `count` networks that lie above an exact value at some point of the ball."""
    rng = np.random.default_rng(seed)
    made = [deceptive(rng, case.shape, case.activation, dtype) for _ in range(count)]
    radii = rng.choice([0.0, 1e-12, 1e-6, 1e-3], size=count).astype(dtype)
    stacked = jax.tree.map(lambda *a: jnp.asarray(np.stack(a)), *made)
    run = jax.jit(jax.vmap(lambda p, x, r: bound(case, p, x, r)))
    found = np.asarray(run(*stacked, jnp.asarray(radii)))
    convert = double if dtype == np.float32 else rational
    wrong = []
    for value, (parameters, x), radius in zip(found, made, radii, strict=True):
        # the radius that was certified may be smaller than the one asked for
        reach = 0.0 if case.how == "radius" else radius
        points = [convert(x)]
        for _ in range(3):
            direction = worst_direction(case, parameters, x, rng)
            points.append(convert(x) + convert(direction) * convert(reach))
        least = min(exact_margin(case.activation, parameters, p, convert) for p in points)
        if np.isfinite(value) and Fraction(float(value)) > Fraction(least):
            wrong.append(f"{case}: claims {value} of {float(least)}")
    return wrong


def main() -> None:
    """Fuzzes for as many cases as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--each", type=int, default=100, help="networks of one kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--activation", choices=[*ACTIVATIONS], help="this one alone")
    parser.add_argument("--double", action="store_true", help="float64 against rationals")
    options = parser.parse_args()
    dtype = np.float64 if options.double else np.float32
    kinds, total, wrong = cases(dtype, np.random.default_rng(options.seed)), 0, []
    with jax.enable_x64(options.double):
        while total < options.cases:
            case = next(kinds)
            if options.activation not in (None, case.activation):
                continue
            new = faults(case, seed=options.seed + total, count=options.each, dtype=dtype)
            total, wrong = total + options.each, wrong + new
            for line in new[:1]:
                print(line, flush=True)
    print(f"{total} cases, {len(wrong)} faults")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
