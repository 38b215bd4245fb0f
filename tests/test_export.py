"""Exported weights and classifiers, read back by other programs and run."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.training_cases import CLASSES, SHAPE, Net, assert_close, linear, normalized

from jaxrobust import export
from jaxrobust.types import Array, Model, Variables

MODEL = normalized()
needs_flatbuffers = pytest.mark.skipif(
    importlib.util.find_spec("flatbuffers") is None, reason="flatbuffers is not installed"
)
X = jax.random.uniform(jax.random.key(1), (5, *SHAPE))


@pytest.fixture(scope="module")
def variables() -> Variables:
    # Statistics too differ from what a fresh model has.
    made = MODEL.init(jax.random.key(0), X)
    return jax.tree.map(lambda a: a + jax.random.uniform(jax.random.key(2), a.shape), made)


def logits(model: Model, variables: Variables, x: Array = X) -> np.ndarray:
    return np.asarray(model.apply(variables, x, train=False, key=None, axes=())[0])


def named(variables: Variables) -> dict[str, np.ndarray]:
    """The leaves by their names, written without the library."""
    found = {}
    for head, tree in variables._asdict().items():
        for layer, leaves in tree.items():
            for leaf, array in leaves.items():
                found[f"{head}/{layer}/{leaf}"] = np.asarray(array)
    return found


def test_safetensors_files_are_read_by_their_own_package(
    variables: Variables, tmp_path: Path
) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    path = export.safetensors(variables, tmp_path / "net.safetensors", metadata={"by": "test"})
    held = safetensors.load_file(path)
    wanted = named(variables)
    assert held.keys() == wanted.keys()
    assert {"params/Dense_0/kernel", "stats/BatchNorm_0/var"} < held.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(held[name], array, strict=True)
    with pytest.importorskip("safetensors").safe_open(path, "numpy") as file:
        assert file.metadata() == {"by": "test"}
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_weights_read_elsewhere_give_the_same_logits(variables: Variables, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.flax")
    traverse = pytest.importorskip("flax.traverse_util")
    held = safetensors.load_file(export.safetensors(variables, tmp_path / "net"))
    trees = traverse.unflatten_dict(held, sep="/")
    collections = {"params": trees["params"], "batch_stats": trees["stats"]}
    np.testing.assert_array_equal(Net().apply(collections, X), logits(MODEL, variables))


@pytest.mark.parametrize("dtype", sorted(export.DTYPES))
def test_every_type_of_numbers_is_read_by_pytorch(tmp_path: Path, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    read = pytest.importorskip("safetensors.torch").load_file
    wanted = np.arange(6).reshape(2, 3).astype(jnp.dtype(dtype))
    tree = Variables(
        {"odd": np.ones(3, np.uint8), "a": wanted, "empty": wanted[:0], "one": wanted[1, 1]}
    )
    held = read(export.safetensors(tree, tmp_path / "net"))
    assert held["params/a"].dtype == getattr(torch, dtype)
    np.testing.assert_array_equal(held["params/a"].double().numpy(), wanted.astype(np.float64))
    assert (tuple(held["params/empty"].shape), held["params/one"].shape) == ((0, 3), ())


def test_the_header_is_sorted_and_aligned(variables: Variables, tmp_path: Path) -> None:
    data = export.safetensors(variables, tmp_path / "net").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert list(header) == sorted(header)
    assert max(told["data_offsets"][1] for told in header.values()) == len(data) - 8 - length
    again = export.safetensors(variables, tmp_path / "again").read_bytes()
    assert again == data


def test_npz_files_are_read_by_numpy_and_back(variables: Variables, tmp_path: Path) -> None:
    path = export.npz(variables, tmp_path / "net.npz")
    with np.load(path) as held:
        for name, array in named(variables).items():
            np.testing.assert_array_equal(held[name], array, strict=True)
    found = export.load_npz(path)
    assert_close(found, variables)
    np.testing.assert_array_equal(logits(MODEL, found), logits(MODEL, variables))


def test_low_precision_weights_lose_nothing_in_npz(tmp_path: Path) -> None:
    half = Variables({"w": jnp.asarray([1.5, -0.007, 3e38], jnp.bfloat16)})
    found = export.load_npz(export.npz(half, tmp_path / "net.npz")).params["w"]
    np.testing.assert_array_equal(found, np.float32(half.params["w"]), strict=True)


def test_what_export_did_not_write_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones(3))
    with pytest.raises(ValueError, match=r"data.npz holds 'x', and weights are called params/"):
        export.load_npz(tmp_path / "data.npz")
    pytest.importorskip("flatbuffers")
    for load in (export.load_npz, export.load_stablehlo):
        with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere"):
            load(tmp_path / "nowhere")
        (tmp_path / "broken").write_bytes(b"broken bytes")
        with pytest.raises(ValueError, match=r"broken is (no classifier|not a NumPy archive)"):
            load(tmp_path / "broken")


@pytest.mark.parametrize("write", [export.safetensors, export.npz])
def test_keys_are_no_weights(tmp_path: Path, write: Any) -> None:
    with pytest.raises(ValueError, match=r"params/key holds key<fry>, which is no number"):
        write(Variables({"key": jax.random.key(0)}), tmp_path / "net")
    assert not list(tmp_path.iterdir())


CODE = """
import sys
import jax, numpy as np
from jaxrobust import export
f = export.load_stablehlo(sys.argv[1])
x = np.load(sys.argv[2])
np.save(sys.argv[3], np.concatenate([f(x), f(x[:2])]))
"""


@needs_flatbuffers
def test_a_classifier_runs_in_another_process_without_its_code(
    variables: Variables, tmp_path: Path
) -> None:
    path = export.stablehlo(MODEL, variables, tmp_path / "net.stablehlo", shape=SHAPE)
    np.save(tmp_path / "x.npy", X)
    files = [str(path), str(tmp_path / "x.npy"), str(tmp_path / "logits.npy")]
    command = [sys.executable, "-c", CODE, *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    wanted = logits(MODEL, variables)
    found = np.load(files[2])
    np.testing.assert_allclose(found, np.concatenate([wanted, wanted[:2]]), rtol=1e-5, atol=1e-6)


@needs_flatbuffers
def test_a_classifier_keeps_its_gradient(variables: Variables, tmp_path: Path) -> None:
    f = export.load_stablehlo(export.stablehlo(MODEL, variables, tmp_path / "net", shape=SHAPE))
    for one, other in zip(
        *(
            jax.value_and_grad(lambda x, g=g: jnp.sum(g(x)[:, 0] ** 2))(X)
            for g in (f, lambda x: MODEL.apply(variables, x, train=False, key=None, axes=())[0])
        ),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@needs_flatbuffers
def test_a_module_and_its_collections_are_exported(variables: Variables, tmp_path: Path) -> None:
    collections = {"params": variables.params, "batch_stats": variables.stats}
    f = export.load_stablehlo(export.stablehlo(Net(), collections, tmp_path / "net", shape=SHAPE))
    np.testing.assert_allclose(f(X), logits(MODEL, variables), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("write", [export.safetensors, export.npz])
def test_only_variables_are_written(variables: Variables, tmp_path: Path, write: Any) -> None:
    with pytest.raises(TypeError, match=r"export takes the Variables of a model, .* got dict"):
        write({"params": variables.params}, tmp_path / "net")


@needs_flatbuffers
def test_a_model_may_ask_for_the_number_of_examples(tmp_path: Path) -> None:
    def apply(variables: Variables, x: Array, **options: Any) -> tuple[Array, Any]:
        del options
        rows = [x[i].reshape(-1)[:CLASSES] * variables.params["w"] for i in range(len(x))]
        return jnp.stack(rows), variables.stats

    asking, variables = Model(linear().init, apply), Variables({"w": jnp.arange(4.0)})
    f = export.load_stablehlo(export.stablehlo(asking, variables, tmp_path / "net", shape=SHAPE))
    np.testing.assert_allclose(f(X), logits(asking, variables), rtol=1e-6)


@needs_flatbuffers
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0,), "shape must be a whole number of at least 1, got 0"),
        ((3,), r"of shape \(3,\) \(Scop"),
    ],
)
def test_examples_that_do_not_fit_are_refused(
    variables: Variables, tmp_path: Path, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        export.stablehlo(MODEL, variables, tmp_path / "net", shape=shape)


def test_the_missing_package_is_named(
    variables: Variables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="install it with: pip install flatbuffers"):
        export.stablehlo(MODEL, variables, tmp_path / "net", shape=SHAPE)
