"""ONNX operators against onnxruntime, and what the reader promises of whole networks."""

import gzip
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("onnx")

from models.onnx_cases import INPUT, node, onnx, reference, save

from jaxrobust import duals, evaluation, models, threats
from jaxrobust.duals.graph import run
from jaxrobust.duals.relaxations import relaxation


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def whole(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


class Case(NamedTuple):
    """One operator on an input, followed by what makes a vector of it."""

    kind: str
    shape: tuple[int, ...]
    """Of the file's input; its first axis is the batch's."""
    arrays: tuple[np.ndarray, ...] = ()
    settings: Mapping[str, Any] = {}
    inputs: str = ""
    """By default the network's input, then the arrays a0, a1, ..."""
    opset: int = 17
    affine: bool = False
    """Whether bounds are to know it, alone or by what it is made of."""


IMAGE, VECTOR = (1, 2, 7, 6), (1, 6)
POOL = {"kernel_shape": [3, 2], "strides": [2, 2]}
NORM = (numbers(2), numbers(2, seed=1), numbers(2, seed=2), np.abs(numbers(2, seed=3)) + 0.1)
BATCH_NORM = [np.tile(v, 3) for v in NORM]
FACTORS = np.float32([1, 1, 2, 3])
HALF = np.asarray(0.5, np.float32)
CASES = {
    "gemm": Case("Gemm", VECTOR, (numbers(6, 3), numbers(3)), affine=True),
    "gemm transposed": Case(
        "Gemm", VECTOR, (numbers(3, 6), numbers(1, 3)),
        {"transB": 1, "alpha": 0.5, "beta": 2.0}, affine=True,
    ),
    "gemm without bias": Case("Gemm", VECTOR, (numbers(6, 3),), affine=True),
    "gemm of the transpose": Case("Gemm", VECTOR, (numbers(1, 3),), {"transA": 1}),
    "matmul": Case("MatMul", VECTOR, (numbers(6, 3),), affine=True),
    "matmul of a batch": Case("MatMul", (1, 2, 3, 4), (numbers(4, 3),), affine=True),
    "matmul from the left": Case("MatMul", (1, 4, 3), (numbers(5, 4),), inputs="a0 x", affine=True),
    "conv": Case("Conv", IMAGE, (numbers(4, 2, 3, 3), numbers(4)), affine=True),
    "conv padded": Case(
        "Conv", IMAGE, (numbers(4, 2, 3, 2),), {"pads": [1, 0, 2, 1], "strides": [2, 1]},
        affine=True,
    ),
    "conv in groups": Case(
        "Conv", IMAGE, (numbers(4, 1, 3, 3), numbers(4)), {"group": 2, "pads": [1] * 4}, affine=True
    ),
    "conv dilated": Case("Conv", IMAGE, (numbers(3, 2, 3, 2),), {"dilations": [2, 3]}, affine=True),
    "conv same upper": Case(
        "Conv", IMAGE, (numbers(3, 2, 4, 3),), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}
    ),
    "conv same lower": Case(
        "Conv", IMAGE, (numbers(3, 2, 4, 3),), {"auto_pad": "SAME_LOWER", "strides": [2, 3]}
    ),
    "conv valid": Case("Conv", IMAGE, (numbers(3, 2, 4, 3),), {"auto_pad": "VALID"}),
    "conv of one axis": Case("Conv", (1, 2, 9), (numbers(3, 2, 3),), {"pads": [1, 1]}, affine=True),
    "conv of three axes": Case("Conv", (1, 2, 4, 5, 3), (numbers(3, 2, 2, 3, 2),)),
    "transposed conv": Case(
        "ConvTranspose", IMAGE, (numbers(2, 3, 3, 3), numbers(3)),
        {"strides": [2, 2], "pads": [1, 0, 0, 1], "output_padding": [1, 0]}, affine=True,
    ),
    "transposed conv in groups": Case(
        "ConvTranspose", IMAGE, (numbers(2, 3, 2, 3),), {"group": 2, "dilations": [2, 1]}
    ),
    "transposed conv of a size": Case(
        "ConvTranspose", IMAGE, (numbers(2, 3, 3, 3),),
        {"strides": [2, 2], "output_shape": [14, 13]},
    ),
    "transposed conv same": Case(
        "ConvTranspose", IMAGE, (numbers(2, 3, 3, 3),),
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ),
    "max-pool": Case("MaxPool", IMAGE, (), POOL, affine=True),
    "max-pool padded": Case("MaxPool", IMAGE, (), {**POOL, "pads": [1, 0, 2, 1]}, affine=True),
    "max-pool rounded up": Case("MaxPool", IMAGE, (), {**POOL, "ceil_mode": 1}, affine=True),
    "max-pool dilated": Case("MaxPool", IMAGE, (), {**POOL, "dilations": [2, 1]}, affine=True),
    "max-pool dilated, padded": Case(
        "MaxPool", IMAGE, (), {**POOL, "dilations": [2, 1], "pads": [1, 0, 1, 0]}
    ),
    "max-pool same": Case("MaxPool", IMAGE, (), {**POOL, "auto_pad": "SAME_UPPER"}, affine=True),
    "average-pool": Case("AveragePool", IMAGE, (), POOL, affine=True),
    "average-pool padded": Case("AveragePool", IMAGE, (), {**POOL, "pads": [1, 0, 2, 1]}),
    "average-pool with its pads": Case(
        "AveragePool", IMAGE, (), {**POOL, "pads": [1, 0, 2, 1], "count_include_pad": 1},
        affine=True,
    ),
    "average-pool rounded up": Case(
        "AveragePool", (1, 2, 8, 7), (), {"kernel_shape": [3, 3], "strides": [2, 2],
        "ceil_mode": 1}, opset=19,
    ),
    "max-pool rounded up, padded": Case(
        "MaxPool", (1, 1, 4, 5), (), {"kernel_shape": [2, 2], "strides": [2, 2],
        "pads": [0, 0, 1, 1], "ceil_mode": 1}, opset=19,
    ),
    "average-pool rounded up with its pads": Case(
        "AveragePool", (1, 2, 8, 7), (), {"kernel_shape": [3, 3], "strides": [2, 2],
        "pads": [1] * 4, "count_include_pad": 1, "ceil_mode": 1}, opset=19,
    ),
    "average-pool same": Case("AveragePool", IMAGE, (), {**POOL, "auto_pad": "SAME_LOWER"}),
    "global average": Case("GlobalAveragePool", IMAGE, affine=True),
    "global maximum": Case("GlobalMaxPool", IMAGE, affine=True),
    "batch norm": Case("BatchNormalization", IMAGE, NORM, {"epsilon": 1e-3}, affine=True),
    "batch norm of vectors": Case("BatchNormalization", (1, 2), NORM, affine=True),
    **{
        name: Case(name, VECTOR)
        for name in ("Softplus", "Softsign", "HardSwish", "Erf", "Sin", "Cos", "Exp", "Neg", "Elu",
                     "Selu", "Softmax", "LogSoftmax", "Identity")
    },
    **{name: Case(name, VECTOR, affine=True) for name in ("Relu", "Sigmoid", "Tanh", "Abs")},
    "Mish": Case("Mish", VECTOR, opset=18),
    "Gelu": Case("Gelu", VECTOR, opset=20),
    "Gelu by tanh": Case("Gelu", VECTOR, (), {"approximate": "tanh"}, opset=20),
    "leaky": Case("LeakyRelu", VECTOR, affine=True),
    "leaky, steeper": Case("LeakyRelu", VECTOR, (), {"alpha": 0.3}, affine=True),
    "prelu": Case("PRelu", IMAGE, (np.abs(numbers(2, 1, 1)),), affine=True),
    "elu, flatter": Case("Elu", VECTOR, (), {"alpha": 0.4}),
    "celu": Case("Celu", VECTOR, (), {"alpha": 0.7}),
    "selu of its own": Case("Selu", VECTOR, (), {"alpha": 1.2, "gamma": 0.9}),
    "hard sigmoid": Case("HardSigmoid", VECTOR, (), {"alpha": 0.4}, affine=True),
    "softmax of an axis": Case("Softmax", (1, 3, 4), (), {"axis": 1}),
    "softmax of old": Case("Softmax", (1, 3, 4), (), {"axis": 1}, opset=11),
    "clip": Case("Clip", VECTOR, (-HALF, HALF), affine=True),
    "clip from below": Case("Clip", VECTOR, (-HALF,), affine=True),
    "clip from above": Case("Clip", VECTOR, (HALF,), inputs="x - a0", affine=True),
    "clip of old": Case("Clip", VECTOR, (), {"min": 0.0, "max": 6.0}, opset=10, affine=True),
    "add": Case("Add", IMAGE, (numbers(2, 1, 1),), affine=True),
    "sub": Case("Sub", IMAGE, (numbers(7, 6),), inputs="a0 x", affine=True),
    "mul": Case("Mul", IMAGE, (numbers(1, 2, 1, 6),), affine=True),
    "div": Case("Div", IMAGE, (np.abs(numbers(6)) + 1,), affine=True),
    "max": Case("Max", VECTOR, (numbers(6), numbers(1)), affine=True),
    "max with 0": Case("Max", VECTOR, (np.zeros(1, np.float32),), affine=True),
    "min": Case("Min", VECTOR, (numbers(6),), affine=True),
    "sum": Case("Sum", VECTOR, (numbers(6), numbers(1)), inputs="x a0 x a1", affine=True),
    "square": Case("Pow", VECTOR, (np.asarray(2.0, np.float32),)),
    "square, whole": Case("Pow", VECTOR, (whole(2),)),
    "flatten": Case("Flatten", IMAGE, (), {"axis": 2}, affine=True),
    "reshape": Case("Reshape", IMAGE, (whole(0, -1, 2),), affine=True),
    "transpose": Case("Transpose", IMAGE, (), {"perm": [0, 3, 1, 2]}, affine=True),
    "transpose, turned": Case("Transpose", IMAGE, affine=True),
    "squeeze": Case("Squeeze", (1, 1, 3, 1), (whole(1, -1),), affine=True),
    "squeeze of old": Case("Squeeze", (1, 1, 3, 1), (), {"axes": [3]}, opset=11, affine=True),
    "squeeze all": Case("Squeeze", (1, 1, 3, 1), affine=True),
    "unsqueeze": Case("Unsqueeze", VECTOR, (whole(0, 3),), affine=True),
    "concat": Case("Concat", IMAGE, (numbers(1, 2, 7, 1),), {"axis": -1}, "x a0 x", affine=True),
    "slice": Case("Slice", IMAGE, (whole(1, -4), whole(100, -1), whole(2, 3)), affine=True),
    "slice backward": Case(
        "Slice", IMAGE, (whole(-1, 5), whole(-99, 0), whole(2, 3), whole(-2, -1)), affine=True
    ),
    "slice of old": Case("Slice", IMAGE, (), {"starts": [0, 1], "ends": [1, 2]}, opset=9),
    "pad": Case("Pad", (1, 3, 4), (whole(0, 1, 2, 0, 0, 3), HALF), affine=True),
    "pad, cut": Case("Pad", (1, 3, 4), (whole(0, -1, 2, 0, 0, -1),), affine=True),
    "pad with edges": Case("Pad", (1, 3, 4), (whole(0, 1, 2, 0, 0, 3),), {"mode": "edge"}),
    "pad reflected": Case("Pad", (1, 3, 4), (whole(0, 1, 2, 0, 0, 3),), {"mode": "reflect"}),
    "pad of old": Case("Pad", VECTOR, (), {"pads": [0, 1, 0, 2], "value": 0.3}, opset=10),
    "gather": Case("Gather", IMAGE, (np.array([[0, -1], [3, 2]]),), {"axis": 2}, affine=True),
    "gather one": Case("Gather", IMAGE, (np.asarray(1),), {"axis": 1}, affine=True),
    "expand": Case("Expand", (1, 2, 1), (whole(3, 1, 4),), affine=True),
    "tile": Case("Tile", (1, 2, 3), (whole(1, 2, 2),), affine=True),
    "resize": Case("Resize", IMAGE, (FACTORS,), inputs="x - a0", affine=True),
    "resize from corners": Case(
        "Resize", IMAGE, (FACTORS,),
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, "x - a0",
    ),
    "resize to sizes": Case("Resize", IMAGE, (whole(1, 2, 14, 18),), inputs="x - - a0"),
    "upsample": Case("Upsample", IMAGE, (FACTORS,), opset=9),
    "upsample of old": Case("Upsample", IMAGE, (), {"scales": FACTORS.tolist()}, opset=8),
    "reduce sum": Case("ReduceSum", IMAGE, (whole(1, -1),), {"keepdims": 0}, affine=True),
    "reduce sum of all": Case("ReduceSum", IMAGE, affine=True),
    "reduce mean": Case("ReduceMean", IMAGE, (), {"axes": [2]}, affine=True),
    "reduce mean, newer": Case("ReduceMean", IMAGE, (whole(2),), opset=18, affine=True),
    "reduce max": Case("ReduceMax", IMAGE, (), {"axes": [1, 3], "keepdims": 0}, affine=True),
    "reduce min": Case("ReduceMin", VECTOR, (), {"axes": [1]}),
    "dropout": Case("Dropout", VECTOR, (HALF,), affine=True),
    "cast": Case("Cast", VECTOR, (), {"to": 1}, affine=True),
}  # fmt: skip


def made(case: Case, path: Path) -> Path:
    arrays = {f"a{i}": array for i, array in enumerate(case.arrays)}
    inputs = case.inputs or " ".join([INPUT, *arrays])
    return save(
        path, [node(case.kind, inputs, "y", **case.settings)], arrays, case.shape, opset=case.opset
    )


@pytest.mark.parametrize("name", CASES)
def test_operators_are_those_of_onnxruntime(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = made(case, tmp_path / "made.onnx")
    model, variables = models.from_onnx(path)
    f = model.logits_fn(variables)
    x = 2 * numbers(*case.shape, seed=9)
    expected = reference(path, x).reshape(-1)
    np.testing.assert_allclose(f(x[0]), expected, rtol=1e-5, atol=1e-5)
    if case.affine:
        graph = duals.trace(f, jnp.asarray(x[0]))
        values = run(graph, x[0], lambda n, z: relaxation(n.kind).function(z, *n.args))
        np.testing.assert_allclose(values[graph.output.id], expected, rtol=1e-5, atol=1e-5)


def test_there_is_a_case_for_every_operator_on_values() -> None:
    from jaxrobust.models.onnx_network import OPERATORS

    # What only shapes go through, and what is not defined everywhere, is tested below.
    elsewhere = {
        *("And", "Ceil", "ConstantOfShape", "Equal", "Floor", "Greater", "Less", "Log", "Mod"),
        *("Not", "Range", "Reciprocal", "Shape", "Size", "Split", "Sqrt", "Where"),
    }
    assert set(OPERATORS) - {case.kind for case in CASES.values()} == elsewhere


@pytest.mark.parametrize("kind", ["Sqrt", "Log", "Reciprocal"])
def test_operators_of_positive_numbers(kind: str, tmp_path: Path) -> None:
    path = save(tmp_path / "made.onnx", [node(kind, "x", "y")], {}, VECTOR)
    x = np.abs(numbers(*VECTOR)) + 0.1
    model, variables = models.from_onnx(path)
    np.testing.assert_allclose(
        model.apply(variables, jnp.asarray(x))[0], reference(path, x), rtol=1e-5, atol=1e-5
    )


def test_equal_parts_and_told_ones(tmp_path: Path) -> None:
    nodes = [
        node("Split", "x", "a b c", axis=1, num_outputs=3),
        node("Split", "b sizes", "d e", axis=-1),
        node("Concat", "e c d a", "y", axis=1),
    ]
    arrays = {"sizes": whole(2, 1)}
    path = save(tmp_path / "made.onnx", nodes, arrays, (1, 8), opset=18)
    model, variables = models.from_onnx(path)
    x = numbers(1, 8)
    np.testing.assert_array_equal(
        model.apply(variables, jnp.asarray(x))[0], reference(path, x).reshape(1, -1)
    )


def shape_arithmetic(path: Path) -> Path:
    """As PyTorch exports `x.view(x.size(0), -1, 3)` and an `expand` with a choice of sizes."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "batch", axis=0),
        node("Unsqueeze", "batch axis", "first"),
        node("Concat", "first rest", "wanted", axis=0),
        node("Reshape", "x wanted", "v"),
        node("Shape", "v", "sizes"),
        node("ConstantOfShape", "three", "ones", value=onnx.numpy_helper.from_array(whole(1))),
        node("Mul", "ones minus", "none"),
        node("Equal", "told none", "open"),
        node("Where", "open ones told", "chosen"),
        node("Expand", "bias chosen", "b"),
        node("Add", "v b", "z"),
        node("Slice", "sizes one_ two_", "n"),
        node("Div", "n two_", "half"),
        node("Cast", "half", "float", to=1),
        node("Floor", "float", "cut"),
        node("Cast", "cut", "again", to=7),
        node("Slice", "z again n one_", "y"),
    ]
    arrays = {
        "zero": np.asarray(0), "axis": whole(0), "rest": whole(-1, 3), "three": whole(3),
        "minus": whole(-1), "told": whole(-1, -1, 3), "bias": numbers(3), "one_": whole(1),
        "two_": whole(2),
    }  # fmt: skip
    return save(path, nodes, arrays, ("N", 2, 3, 2))


def test_arithmetic_of_shapes_is_done_on_the_host(tmp_path: Path) -> None:
    path = shape_arithmetic(tmp_path / "made.onnx")
    model, variables = models.from_onnx(path)
    x = numbers(1, 2, 3, 2)
    np.testing.assert_allclose(
        model.apply(variables, jnp.asarray(x))[0], reference(path, x).reshape(1, -1), rtol=1e-6
    )
    assert list(variables.params) == ["bias"]
    made = jax.make_jaxpr(lambda v, z: model.logits_fn(v)(z))(variables, x[0])
    assert not any(
        jnp.issubdtype(v.aval.dtype, jnp.integer) for e in made.jaxpr.eqns for v in e.outvars
    )


def network(path: Path, *, seed: int = 0, batch: int | str = "N") -> Path:
    """A residual network of images."""
    k = 0.3 * numbers(4, 2, 3, 3, seed=seed), 0.2 * numbers(4, 4, 3, 3, seed=seed + 1)
    norm = dict(zip("pqrs", (*(v[:1].repeat(4) for v in NORM[:3]), NORM[3].repeat(2)), strict=True))
    arrays = {"k": k[0], "l": k[1], "w": 0.2 * numbers(5, 36, seed=seed), "b": numbers(5), **norm}
    nodes = [
        node("Conv", "x k", "c", pads=[1] * 4),
        node("BatchNormalization", "c p q r s", "n"),
        node("Relu", "n", "h"),
        node("Conv", "h l", "d", pads=[1] * 4),
        node("Add", "h d", "e"),
        node("LeakyRelu", "e", "g", alpha=0.1),
        node("MaxPool", "g", "m", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "m", "f"),
        node("Gemm", "f w b", "y", transB=1),
    ]
    return save(path, nodes, arrays, (batch, 2, 6, 6))


@pytest.mark.parametrize("batch", ["N", 1])
def test_a_whole_network_on_batches(batch: int | str, tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx", batch=batch)
    model, variables = models.from_onnx(path)
    x = numbers(3, 2, 6, 6, seed=5)
    expected = np.concatenate([reference(path, one[None]) for one in x])
    found, stats = model.apply(variables, jnp.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert sorted(variables.params) == ["b", "k", "l", "p", "q", "w"]
    assert sorted(stats) == ["r", "s"]
    packed = tmp_path / "net.onnx.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    again = models.from_onnx(packed)
    np.testing.assert_array_equal(again[0].apply(again[1], jnp.asarray(x))[0], found)
    report = evaluation.evaluate(
        jax.random.key(0), model, variables, (jax.nn.sigmoid(x), np.arange(3) % 5), {},
        batch_size=3, progress=False,
    )  # fmt: skip
    assert report.clean_accuracy is not None


def test_files_that_differ_by_weights_alone_share_programs(tmp_path: Path) -> None:
    x = jnp.asarray(numbers(2, 6, 6))
    run = jax.jit(chex.assert_max_traces(lambda f, z: f(z), n=1))
    found = []
    for seed in (0, 5):
        model, variables = models.from_onnx(network(tmp_path / f"{seed}.onnx", seed=seed))
        found.append(np.asarray(run(model.logits_fn(variables), x)))
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_weights_are_differentiated_and_bounds_hold(tmp_path: Path) -> None:
    arrays = {"w": numbers(4, 6), "v": numbers(6, 3), **dict(zip("abcd", BATCH_NORM, strict=True))}
    nodes = [
        node("MatMul", "x w", "h"),
        node("BatchNormalization", "h a b c d", "n"),
        node("Relu", "n", "r"),
        node("MatMul", "r v", "y"),
    ]
    model, variables = models.from_onnx(save(tmp_path / "net.onnx", nodes, arrays, ("N", 4)))
    x, ball = jnp.full(4, 0.5), threats.Linf(0.02)

    def least(variables: Any) -> jax.Array:
        f = model.logits_fn(variables)
        return duals.lower_bounds(f, x, jnp.eye(3), ball, methods=("interval",))[0]

    bound, slopes = jax.jit(jax.value_and_grad(least))(variables)
    points = jax.vmap(lambda key: ball.sample(key, x))(jax.random.split(jax.random.key(0), 200))
    assert float(bound) <= float(model.apply(variables, points)[0][:, 0].min())
    assert all(np.abs(v).max() > 0 for v in slopes.params.values())


def test_in_float64(tmp_path: Path) -> None:
    w = np.random.default_rng(0).normal(size=(4, 3))
    nodes = [node("MatMul", "x w", "h"), node("Clip", "h low", "r"), node("Softplus", "r", "y")]
    path = save(tmp_path / "a.onnx", nodes, {"w": w, "low": np.float64(0)}, (1, 4))
    x = np.random.default_rng(1).normal(size=4)
    with jax.enable_x64(True):
        model, variables = models.from_onnx(path)
        found = model.logits_fn(variables)(jnp.asarray(x))
    np.testing.assert_allclose(found, np.log1p(np.exp(np.maximum(x @ w, 0))), rtol=1e-12)


def test_a_column_and_an_example_without_a_batch(tmp_path: Path) -> None:
    arrays = {"w": numbers(3, 4)}
    column = save(tmp_path / "a.onnx", [node("MatMul", "w x", "y")], arrays, (4, 1))
    model, variables = models.from_onnx(column)
    x = numbers(4, 1)
    np.testing.assert_allclose(
        model.logits_fn(variables)(x), reference(column, x).ravel(), rtol=1e-5, atol=1e-6
    )


def test_sizes_that_the_file_leaves_open_are_given(tmp_path: Path) -> None:
    nodes = [node("GlobalAveragePool", "x", "y")]
    path = save(tmp_path / "a.onnx", nodes, {}, ("N", 3, "H", "W"))
    with pytest.raises(ValueError, match=r"does not tell the shape of its input 'x', \[0, 3, 0, 0"):
        models.from_onnx(path)
    with pytest.raises(ValueError, match=r"takes examples \(3, 0, 0\) .* not of shape \(2, 4, 4\)"):
        models.from_onnx(path, shape=(2, 4, 4))
    model, variables = models.from_onnx(path, shape=(3, 4, 5))
    x = numbers(2, 3, 4, 5)
    np.testing.assert_allclose(
        model.apply(variables, jnp.asarray(x))[0], x.mean((2, 3)), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match=r"takes examples \(3, 4, 5\), got \(3, 4, 4\)"):
        model.logits_fn(variables)(x[0, :, :, :4])


def test_unknown_operators_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", [node("Relu", "x", "h"), node("Sign", "h", "y")], {}, VECTOR)
    with pytest.raises(ValueError, match=r"a.onnx: the operator 'Sign' of node 'Sign of y' is not"):
        models.from_onnx(path)
    own = node("Relu", "x", "y", domain="com.mine")
    with pytest.raises(ValueError, match=r"the operator 'com\.mine\.Relu' of node"):
        models.from_onnx(save(tmp_path / "b.onnx", [own], {}, VECTOR))
    # What the output does not depend on does not matter.
    nodes = [node("Sign", "x", "z"), node("Relu", "x", "y")]
    models.from_onnx(save(tmp_path / "c.onnx", nodes, {}, VECTOR))


def mistakes() -> dict[str, tuple[Sequence[Any], Mapping[str, np.ndarray], Sequence[Any], str]]:
    body = onnx.helper.make_graph([node("Relu", "x", "z")], "body", [], [])
    return {
        "shapes": (
            [node("MatMul", "x w", "y")], {"w": numbers(5, 2)}, VECTOR,
            r"the operator 'MatMul' of node 'MatMul of y' with inputs of shape \(1, 6\), \(5, 2\)",
        ),
        "axis": ([node("Softmax", "x", "y", axis=3)], {}, VECTOR, "axis 3 of 2 axes"),
        "cast": ([node("Cast", "x", "y", to=7)], {}, VECTOR, "other than a float"),
        "indices": (
            [node("Gather", "x i", "y", axis=1)], {"i": whole(6)}, VECTOR, "indices up to 6 of 6",
        ),
        "condition": (
            [node("Greater", "x a", "g"), node("Where", "g x a", "y")], {"a": numbers(1, 6)},
            VECTOR, "operands of Greater must be constants",
        ),
        "no output": ([node("Relu", "x", "z")], {}, VECTOR, "no operator computes the output 'y'"),
        "subgraph": (
            [node("If", "c", "y", then_branch=body, else_branch=body)], {"c": np.asarray(True)},
            VECTOR, "the operator 'If'",
        ),
        "dangling": ([node("Relu", "z", "y")], {}, VECTOR, "takes 'z', which nothing computes"),
        "weights": (
            [node("Mul", "x a", "y")], {"a": np.float32([np.nan])}, VECTOR, "'a' holds NaN",
        ),
        "training": (
            [node("BatchNormalization", "x a b c d", "y", training_mode=1)],
            dict(zip("abcd", NORM, strict=True)), (1, 2), "in evaluation mode",
        ),
        "pixels": (
            [node("Resize", "x - s", "y", mode="linear")], {"s": FACTORS}, IMAGE, "nearest pixel",
        ),
        "factors": (
            [node("Resize", "x - s", "y")], {"s": FACTORS / 2}, IMAGE, "only whole factors",
        ),
        "open": ([node("Relu", "x", "y")], {}, ("N",), "does not tell the shape of its input"),
    }  # fmt: skip


@pytest.mark.parametrize("name", mistakes())
def test_what_does_not_fit_is_told(name: str, tmp_path: Path) -> None:
    nodes, arrays, shape, message = mistakes()[name]
    path = save(tmp_path / "made.onnx", nodes, arrays, shape)
    with pytest.raises(ValueError, match=message):
        models.from_onnx(path)


def test_one_input_one_output_and_operators_of_today(tmp_path: Path) -> None:
    nodes = [node("Split", "x", "y z", axis=1, num_outputs=2)]
    path = save(tmp_path / "a.onnx", nodes, {}, VECTOR, opset=18, outputs=("y", "z"))
    with pytest.raises(ValueError, match="networks of one output are read, and this has: y, z"):
        models.from_onnx(path)
    path = save(tmp_path / "b.onnx", [node("Relu", "x", "y")], {}, VECTOR, opset=6)
    with pytest.raises(ValueError, match="operators of version 6; convert it to 7"):
        models.from_onnx(path)


def test_without_the_package_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = network(tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jaxrobust\[onnx\]'"):
        models.from_onnx(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    with pytest.raises(FileNotFoundError, match=r"no file .*a\.onnx"):
        models.from_onnx(path)
    good = network(tmp_path / "good.onnx").read_bytes()
    for data in (b"", b"(declare-const X_0 Real)", b"\x89PNG\r\n\x1a\n", good[:1000], good[:-1]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"a\.onnx is no ONNX file"):
            models.from_onnx(path)
    packed = tmp_path / "a.onnx.gz"
    packed.write_bytes(gzip.compress(good)[:-20])
    with pytest.raises(ValueError, match=r"a\.onnx\.gz is no ONNX file"):
        models.from_onnx(packed)


def test_damage_gives_one_error(tmp_path: Path) -> None:
    good = network(tmp_path / "good.onnx").read_bytes()
    draw, refused = np.random.default_rng(0), 0
    for _ in range(60):
        data = bytearray(good)
        for place in draw.integers(0, len(data), 3):
            data[place] = draw.integers(256)
        path = tmp_path / "bad.onnx"
        path.write_bytes(bytes(data[: draw.integers(len(data) // 2, len(data) + 1)]))
        told = ""
        try:
            models.from_onnx(path)
        except ValueError as error:
            told = str(error)
            refused += 1
        assert not told or "bad.onnx" in told
    assert refused > 30
