"""Loaders of other libraries, and plain generators, as feeds for training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from training.training_cases import assert_close, linear, sgd

from jaxrobust import attacks, data, defenses, threats, training
from jaxrobust.data import Loader, permutation, stream_of

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
LABELS = np.arange(20, dtype=np.int32) % 3


def feed(batches: Any, **changes: Any) -> Loader:
    about = {"name": "own", "num_classes": 3, "images": 20, "shape": (4, 4, 3)}
    return stream_of(batches, **{**about, **changes})


def read(found: Loader, *, size: int = 4, batch_size: int = 8, epoch: int = 0) -> Any:
    """The examples of an epoch, put together: images, labels, indices."""
    batches = list(found.batches(0, epoch, size=size, batch_size=batch_size))
    assert all(len(batch.y) == batch_size for batch in batches)
    return [
        np.concatenate([np.asarray(part) for part in parts]) for parts in zip(*batches, strict=True)
    ]


def assert_whole(found: Loader, x: np.ndarray = BYTES) -> None:
    images, labels, index = read(found)
    np.testing.assert_array_equal(images, x[:16], strict=True)
    np.testing.assert_array_equal(labels, LABELS[:16], strict=True)
    np.testing.assert_array_equal(index, np.arange(16))


@pytest.mark.parametrize("count", [1, 3, 8, 20])
def test_batches_of_any_size_are_put_together(count: int) -> None:
    def batches(epoch: int) -> Iterator[Any]:
        for start in range(0, 20, count):
            yield BYTES[start : start + count], LABELS[start : start + count]

    assert_whole(feed(batches))


def pictures(mode: str) -> Any:
    return [Image.fromarray(x).convert(mode) for x in BYTES]


@pytest.mark.parametrize(
    "items",
    [
        list(zip(BYTES, LABELS, strict=True)),
        list(zip(pictures("RGB"), LABELS.tolist(), strict=True)),
        list(zip(pictures("RGBA"), LABELS.tolist(), strict=True)),
        [{"image": pictures("RGB"), "label": LABELS.tolist(), "more": 1}],
        [{"image": jnp.asarray(BYTES), "label": jnp.asarray(LABELS)}],
        [[BYTES.tolist(), LABELS]],
    ],
    ids=["arrays", "pictures", "with alpha", "dict of lists", "jax", "lists"],
)
def test_forms_of_examples_are_read(items: list[Any]) -> None:
    if isinstance(items[0], list):
        items = [[np.asarray(items[0][0], np.uint8), items[0][1]]]
    assert_whole(feed(items))


def test_gray_images_get_a_channel_and_floats_stay() -> None:
    gray = BYTES[..., :1]
    items = [(Image.fromarray(x[..., 0]), y) for x, y in zip(gray, LABELS, strict=True)]
    assert_whole(feed(items, shape=(4, 4, 1)), gray)
    assert_whole(feed([(gray[..., 0], LABELS)], shape=(4, 4, 1)), gray)
    floats = BYTES / 100 - 1
    assert_whole(feed([(floats, LABELS)]), floats.astype(np.float32))
    vectors = floats.reshape(20, -1)[:, :5]
    images, *_ = read(feed([(vectors, LABELS)], shape=(5,)), size=5)
    np.testing.assert_array_equal(images, vectors[:16].astype(np.float32))


def test_entries_may_have_other_names() -> None:
    items = [{"img": BYTES, "fine_label": LABELS}]
    assert_whole(feed(items, image_key="img", label_key="fine_label"))


def test_every_epoch_is_asked_for() -> None:
    def batches(epoch: int) -> Iterator[Any]:
        yield np.full_like(BYTES, epoch), LABELS

    images, *_ = read(feed(batches), epoch=7)
    assert (images == 7).all()


def test_a_pytorch_loader_is_read_with_its_channels_first() -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor(np.moveaxis(BYTES, -1, 1).copy())
    whole = torch.utils.data.TensorDataset(x.float() / 255, torch.tensor(LABELS).long())
    loader = torch.utils.data.DataLoader(whole, batch_size=6)
    wanted = BYTES.astype(np.float32) / np.float32(255)
    for _ in range(2):
        assert_whole(feed(loader, channels_first=True), wanted)
    first = feed(loader)
    with pytest.raises(ValueError, match=r"\[6, 3, 4, 4\], .* \[4, 4, 3\]; give channels_first=T"):
        read(first)
    single = feed(lambda epoch: ((x, y) for x, y in whole), channels_first=True)
    assert_whole(single, wanted)


def test_grain_is_read() -> None:
    grain = pytest.importorskip("grain")
    rows = grain.MapDataset.source(list(zip(BYTES, LABELS, strict=True))).batch(7)
    alone = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    assert_whole(feed(lambda epoch: rows.to_iter_dataset(alone)))


def test_processes_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    (one, two) = feed([(BYTES, LABELS)]).batches(0, 0, size=4, batch_size=8)
    np.testing.assert_array_equal(one.x, BYTES[4:8])
    np.testing.assert_array_equal(two.y, LABELS[12:16])
    np.testing.assert_array_equal(two.index, np.arange(12, 16))


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        ([BYTES], TypeError, "item 1 of epoch 1 of 'own' must be a pair .* got ndarray"),
        ([(BYTES, LABELS, 1)], TypeError, "must be a pair .* got tuple"),
        ([{"img": 1, "label": 2}], ValueError, "has no 'image', but: img, label; name its entries"),
        ([(BYTES.astype(int), LABELS)], TypeError, "holds int64; give uint8 images or floats"),
        ([(BYTES[:, 1:], LABELS)], ValueError, r"has the shape \[20, 3, 4, 3\], .* \[4, 4, 3\]"),
        ([(BYTES, LABELS + 1)], ValueError, r"item 1 .*: labels span \[1, 3\] .* 3 classes"),
        ([(BYTES, LABELS / 1)], ValueError, "item 1 .*: labels must be integers, got float64"),
        ([(BYTES, LABELS[:3])], ValueError, r"item 1 .*: labels must have shape \(20,\)"),
        (
            [(BYTES[:3], LABELS[:3]), (BYTES[:3] / 255, LABELS[:3])],
            TypeError,
            "item 2 .* holds float32, and those before it uint8; choose one",
        ),
    ],
)
def test_what_does_not_fit_is_named(items: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read(feed(items))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batches": iter([])}, TypeError, "batches must be a loader .* got list_iterator; write"),
        ({"batches": 3}, TypeError, "or a function of the epoch, got int"),
        ({"num_classes": 1}, ValueError, "num_classes must be a whole number of at least 2, got 1"),
        ({"images": 0}, ValueError, "images must be a whole number of at least 1, got 0"),
        ({"shape": (4, 0)}, ValueError, "shape must be a whole number of at least 1, got 0"),
    ],
)
def test_impossible_streams_are_refused(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        feed(**{"batches": [], **changes})


VECTORS = data.from_arrays(RNG.normal(size=(64, 5)), np.arange(64) % 4, name="vectors")


def fitted(folder: Path, **changes: Any) -> training.Run:
    settings: dict[str, Any] = {
        "defense": defenses.erm(),
        "feed": stream_of(
            lambda epoch: (
                (VECTORS.train.x[rows], VECTORS.train.y[rows])
                for rows in np.asarray(permutation(3, epoch, 64, 16))
            ),
            name="vectors",
            num_classes=4,
            images=64,
            shape=(5,),
        ),
        "phases": (training.Phase(2, 5, 16, ((0.0, 0.1), (1.0, 0.1))),),
        **changes,
    }
    return training.fit_stream(
        3, linear(), optimizer=sgd(), config={}, progress=False, run=folder, **settings
    )


def test_a_stream_of_vectors_trains_as_fit_does(tmp_path: Path) -> None:
    whole = training.fit(
        3, linear(), defenses.erm(), VECTORS, sgd(), epochs=2, batch_size=16, config={},
        progress=False, run=tmp_path / "fit",
    )  # fmt: skip
    streamed = fitted(tmp_path / "stream")
    assert_close(streamed.state.variables, whole.state.variables, rtol=1e-5, atol=1e-6)


def test_training_names_what_does_not_fit(tmp_path: Path) -> None:
    boxed = defenses.adversarial(attacks.fgsm(threats.Linf(0.1)))
    with pytest.raises(ValueError, match=r"inputs span .* but must lie in \[0, 1\]"):
        fitted(tmp_path / "box", defense=boxed)
    with pytest.raises(
        ValueError, match=r"has size=8, but 'vectors' gives .* \(5,\); write size=5"
    ):
        fitted(tmp_path / "size", phases=(training.Phase(1, 8, 16, ((0.0, 0.1), (1.0, 0.1))),))
    few = feed([(BYTES, LABELS)], images=64, name="few", num_classes=4)
    with pytest.raises(ValueError, match="epoch 1 of 'few' ended after 1 batches of 4"):
        fitted(
            tmp_path / "few",
            feed=few,
            phases=(training.Phase(1, 4, 16, ((0.0, 0.1), (1.0, 0.1))),),
        )
