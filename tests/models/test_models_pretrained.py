"""Released weights: accuracies to the last digit, layouts, and refusals."""

import io
import tracemalloc
import zipfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.models import binarized, load_cascade, load_pretrained

ACCURACIES = {
    "mnist_small_standard": 98.89,
    "mnist_small_wasserstein_adv": 97.28,
    "mnist_small_dual_linf_0.1": 98.20,
    "mnist_small_fgsm_linf_0.3": 98.50,
    "mnist_small_pgd_linf_0.3": 98.99,
    "mnist_small_binarized": 98.86,
}


def read(shared, name, split_slice=slice(None)):
    tfds = pytest.importorskip("tensorflow_datasets")
    source = tfds.data_source(name, split="test", data_dir=shared / "tensorflow_datasets")
    records = [source[i] for i in range(len(source))[split_slice]]
    x = np.stack([record["image"] for record in records]).astype(np.float32) / 255
    return x, np.array([record["label"] for record in records])


@pytest.fixture(scope="module")
def mnist(shared):
    return read(shared, "mnist")


def predictions(model, variables, x):
    forward = jax.jit(lambda x: model.apply(variables, x, train=False)[0].argmax(-1))
    return np.concatenate([forward(x[i : i + 2000]) for i in range(0, len(x), 2000)])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "accuracy"), ACCURACIES.items())
def test_clean_accuracy_is_the_released_one(shared, mnist, name, accuracy):
    x, y = mnist
    model, variables = load_pretrained(name, shared / "pretrained")
    correct = int((predictions(model, variables, x) == y).sum())
    assert correct == round(100 * accuracy)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf_8_255", "l2_36_255"])
def test_cifar_stages_predict_as_the_released_code(shared, norm):
    x, _ = read(shared, "cifar10", slice(120))
    with np.load(shared / "reference" / f"dual_cascade_cifar_{norm}.npz") as reference:
        np.testing.assert_array_equal(reference["index"], np.arange(120))
        stages = load_cascade(f"cifar_small_dual_cascade_{norm}", shared / "pretrained")
        assert len(stages) == len(reference["predicted"])
        for (model, variables), expected in zip(stages, reference["predicted"], strict=True):
            np.testing.assert_array_equal(predictions(model, variables, x), expected)


def torch_weights(channels=3, side=2, classes=4):
    random = np.random.default_rng(0)
    shapes = {
        "conv1/weight": (16, channels, 4, 4),
        "conv1/bias": (16,),
        "conv2/weight": (32, 16, 4, 4),
        "conv2/bias": (32,),
        "dense1/weight": (100, 32 * side**2),
        "dense1/bias": (100,),
        "dense2/weight": (classes, 100),
        "dense2/bias": (classes,),
    }
    return {key: random.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}


def torch_forward(w, x):
    """The network in PyTorch's layout, `x` `[B, C, H, W]`."""
    for layer in ("conv1", "conv2"):
        x = jax.lax.conv_general_dilated(x, w[f"{layer}/weight"], (2, 2), [(1, 1)] * 2)
        x = jnp.maximum(x + w[f"{layer}/bias"].reshape(1, -1, 1, 1), 0)
    hidden = x.reshape(len(x), -1) @ w["dense1/weight"].T + w["dense1/bias"].reshape(1, -1)
    return jnp.maximum(hidden, 0) @ w["dense2/weight"].T + w["dense2/bias"].reshape(1, -1)


def test_color_weights_match_a_channels_first_forward(tmp_path):
    w = torch_weights()
    np.savez(tmp_path / "net_0.1.npz", **w)
    x = np.random.default_rng(1).uniform(size=(3, 8, 8, 3)).astype(np.float32)
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    expected = torch_forward(w, ((x - mean) / np.float32(0.225)).transpose(0, 3, 1, 2))
    for name, directory in (("net_0.1", tmp_path), (tmp_path / "net_0.1.npz", "elsewhere")):
        model, variables = load_pretrained(name, directory)
        logits = model.apply(variables, x, train=False)[0]
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-2)


def test_cascade_stages_come_in_order(tmp_path):
    first, second = torch_weights(channels=1), torch_weights(channels=1)
    second["dense2/bias"] += 100
    arrays = {f"stage1/{k}": v for k, v in second.items()}
    arrays |= {f"stage0/{k}": v for k, v in first.items()}
    np.savez(tmp_path / "two.npz", **arrays)
    (_, a), (_, b) = load_cascade("two", tmp_path)
    np.testing.assert_array_equal(a.params["dense2"]["bias"], first["dense2/bias"])
    np.testing.assert_array_equal(b.params["dense2"]["bias"], second["dense2/bias"])
    with pytest.raises(ValueError, match="use load_cascade"):
        load_pretrained("two", tmp_path)
    np.savez(tmp_path / "gap.npz", **{f"stage1/{k}": v for k, v in first.items()})
    with pytest.raises(ValueError, match="stage0"):
        load_cascade("gap", tmp_path)


def test_a_single_network_is_a_cascade_of_one(tmp_path):
    np.savez(tmp_path / "one.npz", **torch_weights())
    assert len(load_cascade("one", tmp_path)) == 1


def test_binarized_thresholds_the_input(tmp_path):
    np.savez(tmp_path / "one.npz", **torch_weights(channels=1))
    model, variables = load_pretrained("one", tmp_path)
    x = np.random.default_rng(1).uniform(size=(3, 8, 8, 1)).astype(np.float32)
    x[0, 0, 0, 0] = 0.5
    hard = binarized(model).apply(variables, jnp.asarray(x), train=False)[0]
    expected = model.apply(variables, np.where(x >= 0.5, 1, 0).astype(np.float32))[0]
    np.testing.assert_array_equal(hard, expected)
    gradient = jax.grad(lambda x: binarized(model).logits_fn(variables)(x)[0])(jnp.asarray(x[1]))
    np.testing.assert_array_equal(gradient, 0)


def test_missing_and_foreign_files_are_named(tmp_path):
    np.savez(tmp_path / "here.npz", weight=np.ones(3))
    with pytest.raises(FileNotFoundError, match=r"absent\.npz.*here"):
        load_pretrained("absent", tmp_path)
    with pytest.raises(ValueError, match=r"here\.npz.*conv1/weight.*found \['weight'\]"):
        load_pretrained("here", tmp_path)
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(ValueError, match=r"text\.npz is not a NumPy archive"):
        load_pretrained("text", tmp_path)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "here.npz").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"cut\.npz is not a NumPy archive"):
        load_pretrained("cut", tmp_path)
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(ValueError, match=r"array\.npz is not a NumPy archive"):
        load_pretrained("array", tmp_path)


def test_other_shapes_are_refused(tmp_path):
    w = torch_weights()
    for key, value in (
        ("conv1/weight", np.ones((8, 3, 4, 4), np.float32)),
        ("dense1/weight", np.ones((100, 32 * 5), np.float32)),
        ("dense2/weight", np.ones(3, np.float32)),
    ):
        np.savez(tmp_path / "odd.npz", **{**w, key: value})
        with pytest.raises(ValueError, match=r"odd\.npz: not the layout"):
            load_pretrained("odd", tmp_path)


def test_wrong_numbers_are_refused_by_member(tmp_path):
    w = torch_weights(channels=1)
    nan = w["dense2/weight"].copy()
    nan[0, 0] = np.nan
    for key, value, told in (
        ("conv1/bias", np.ones(1, np.float32), r"'conv1/bias' must have shape \(16,\), got \(1,\)"),
        ("dense2/bias", np.ones((4, 1), np.float32), r"'dense2/bias' must have shape \(4,\)"),
        ("dense2/bias", np.ones(4, np.complex64), "'dense2/bias' must hold floats .* complex64"),
        ("conv2/bias", np.ones(32, bool), "'conv2/bias' must hold floats .* bool"),
        ("conv2/bias", np.ones(32, int), "'conv2/bias' must hold floats .* int64"),
        ("conv2/bias", np.full(32, "a"), "'conv2/bias' cannot be read .*must hold numbers"),
        ("dense2/weight", nan, "'dense2/weight' holds NaN"),
        ("conv2/bias", np.full(32, 1e300), "'conv2/bias' holds NaN, infinite or too large"),
    ):
        np.savez(tmp_path / "odd.npz", **{**w, key: value})
        with pytest.raises(ValueError, match=rf"odd\.npz: {told}"):
            load_pretrained("odd", tmp_path)
    np.savez(
        tmp_path / "stages.npz", **{f"stage0/{k}": v for k, v in {**w, "conv1/bias": nan}.items()}
    )
    with pytest.raises(ValueError, match="'conv1/bias' must have shape"):
        load_cascade("stages", tmp_path)


def test_other_orders_and_bytes_are_the_same_numbers(tmp_path):
    w = torch_weights(channels=1)
    np.savez(tmp_path / "plain.npz", **w)
    swapped = {k: np.asfortranarray(v).astype(">f4") for k, v in w.items()}
    np.savez_compressed(tmp_path / "swapped.npz", **swapped)
    plain, other = (load_pretrained(name, tmp_path)[1] for name in ("plain", "swapped"))
    chex.assert_trees_all_equal(plain, other)


def rewritten(path, member, change):
    """The archive with the bytes of one member changed, stored without compression."""
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    held[member] = change(held[member])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in held.items():
            archive.writestr(name, data)


def header(shape, dtype="<f4"):
    file = io.BytesIO()
    told = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, told)
    return file.getvalue()


def test_a_small_file_cannot_ask_for_much_memory(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez(path, **torch_weights(channels=1))
    huge = header((2**16, 2**15))
    rewritten(path, "conv1/bias.npy", lambda data: huge + bytes(2**22))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"bomb\.npz: declares \d+ numbers, of which at most"):
        load_pretrained("bomb", tmp_path)
    # what is declared decides, not what else is packed
    np.savez(path, **torch_weights(channels=1))
    rewritten(path, "conv1/bias.npy", lambda data: data + bytes(2**26))
    with pytest.raises(
        ValueError, match=r"'conv1/bias' cannot be read .*does not hold the 16 numbers"
    ):
        load_pretrained("bomb", tmp_path)
    np.savez_compressed(path, other=np.zeros(2**24, np.float32))
    with pytest.raises(ValueError, match=r"expected the keys .* found \['other'\]"):
        load_pretrained("bomb", tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # the first file's own writing, of 64 MiB, is the most
    assert peak < 2**28


def flip(data, at, size=1):
    return data[:at] + bytes(b ^ 0xFF for b in data[at : at + size]) + data[at + size :]


def test_every_broken_file_is_one_value_error_that_names_it(tmp_path):
    path = tmp_path / "net.npz"
    np.savez_compressed(path, **torch_weights(channels=1))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    cut = [whole[:n] for n in (0, 1, 30, len(whole) // 2, len(whole) - 10)]
    flipped = [flip(whole, int(at), 4) for at in rng.integers(0, len(whole), 40)]
    # the central directory: methods, flags and sizes
    start = whole.find(b"PK\x01\x02")
    flipped += [flip(whole, start + at) for at in range(6, 46)]
    told = []
    for content in cut + flipped:
        path.write_bytes(content)
        try:
            load_pretrained("net", tmp_path)
        except ValueError as error:
            told.append(str(error))
    assert len(told) > 10
    assert all(str(path) in one for one in told)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no array")
    with pytest.raises(ValueError, match=r"'notes.txt' cannot be read .*no \.npy member"):
        load_pretrained("net", tmp_path)
    for change, told in (
        (lambda data: b"", "'conv1/bias' cannot be read"),
        (lambda data: data[:100], "'conv1/bias' cannot be read"),
        (lambda data: data[:-4], "does not hold the 16 numbers"),
        (lambda data: header((16,), "|O") + data[-64:], "must hold numbers"),
        (lambda data: header((-1,)) + data[-64:], "its shape is"),
        (lambda data: data.replace(b"{", b"(", 1), "'conv1/bias' cannot be read"),
    ):
        path.write_bytes(whole)
        rewritten(path, "conv1/bias.npy", change)
        with pytest.raises(ValueError, match=told):
            load_pretrained("net", tmp_path)
