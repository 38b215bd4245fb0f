"""Streams: what is cut, in which order, for which process, and the errors of bad images."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from data.test_data_tfds import class_feature, image_feature, prepare
from PIL import Image

from jaxrobust.data import Stream, open_stream, permutation, stream
from jaxrobust.data.crops import ASPECT, center_box, random_box

CLASSES = 5


class Plain:
    """Images of one color each, which tells their index whatever is cut out."""

    def __init__(self, count: int, changes: dict[int, dict[str, Any]] | None = None) -> None:
        self.count, self.changes = count, changes or {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = np.full((9 + index % 3, 12, 3), index, np.uint8)
        return {"image": image, "label": index % CLASSES, **self.changes.get(index, {})}


class Drawn(Plain):
    """Images of noise."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = np.random.default_rng(index).integers(0, 256, (16, 20, 3), dtype=np.uint8)
        return {"image": image, "label": index % CLASSES}


def of(train: Any, test: Any = None, threads: int = 0) -> Stream:
    return Stream("toy", "Toy", CLASSES, train, test or Plain(4), threads)


def test_an_epoch_is_the_permutation_of_its_seed() -> None:
    batches = list(of(Plain(14)).batches(3, 2, size=5, batch_size=4))
    order = np.asarray(permutation(3, 2, 14, 4))
    assert len(batches) == 3
    for batch, index in zip(batches, order, strict=True):
        assert (batch.x.shape, batch.x.dtype) == ((4, 5, 5, 3), np.uint8)
        assert (batch.y.dtype, batch.index.dtype) == (np.int32, np.int32)
        np.testing.assert_array_equal(batch.index, index)
        np.testing.assert_array_equal(batch.y, index % CLASSES)
        np.testing.assert_array_equal(batch.x[:, 2, 2, 1], index)


def test_threads_change_nothing_and_epochs_do() -> None:
    def images(threads: int, epoch: int = 0, seed: int = 0) -> np.ndarray:
        found = of(Drawn(8), threads=threads).batches(seed, epoch, size=6, batch_size=4)
        batches = list(found)
        order = np.argsort(np.concatenate([b.index for b in batches]))
        return np.concatenate([b.x for b in batches])[order]

    alone = images(0)
    np.testing.assert_array_equal(images(3), alone)
    # The same images, cut elsewhere.
    for other in (images(0, epoch=1), images(0, seed=1)):
        assert all((a != b).any() for a, b in zip(alone, other, strict=True))


def test_processes_share_out_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(of(Drawn(12)).batches(1, 0, size=6, batch_size=6))
    parts = []
    for process in (0, 1):
        fake = SimpleNamespace(process_index=lambda p=process: p, process_count=lambda: 2)
        monkeypatch.setattr(stream, "jax", fake)
        parts.append(list(of(Drawn(12)).batches(1, 0, size=6, batch_size=6)))
    for batch, *shares in zip(whole, *parts, strict=True):
        for field in ("x", "y", "index"):
            joined = np.concatenate([getattr(share, field) for share in shares])
            np.testing.assert_array_equal(joined, getattr(batch, field))


def test_training_mirrors_half_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "random_box", lambda rng, width, height: (0, 0, width, height))
    ramp = np.broadcast_to(np.arange(0, 160, 20, dtype=np.uint8)[None, :, None], (8, 8, 3))
    records = Plain(64, {i: {"image": ramp} for i in range(64)})
    (batch,) = of(records).batches(0, 0, size=8, batch_size=64)
    mirrored = (batch.x == ramp[:, ::-1]).all((1, 2, 3))
    as_is = (batch.x == ramp).all((1, 2, 3))
    assert (mirrored ^ as_is).all()
    assert 20 < mirrored.sum() < 44


def test_chunks_hold_every_test_image_once_in_order() -> None:
    found = list(of(Plain(4), Plain(7)).chunks(size=4, count=3))
    assert [len(split.y) for split in found] == [3, 3, 1]
    assert np.concatenate([split.x[:, 0, 0, 0] for split in found]).tolist() == list(range(7))
    assert np.concatenate([split.y for split in found]).tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert [len(s.y) for s in of(Plain(4), Plain(2)).chunks(size=4, count=3)] == [2]


def test_evaluation_sees_the_center() -> None:
    # 32 x 48 with a white center of 28 x 28: exactly 7/8 of the shorter side.
    image = np.zeros((32, 48, 3), np.uint8)
    image[2:30, 10:38] = 255
    (split,) = of(Plain(1), Plain(1, {0: {"image": image}})).chunks(size=28, count=1)
    assert (split.x == 255).all()
    assert center_box(48, 32) == (10, 2, 38, 30)


def test_random_boxes_have_the_area_and_aspect_that_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    width, height = 500, 375
    boxes = np.asarray([random_box(rng, width, height) for _ in range(4000)], float)
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes[:, :2].min() >= 0
    assert (boxes[:, 2] <= width).all()
    assert (boxes[:, 3] <= height).all()
    assert ASPECT[0] - 0.02 < (w / h).min()
    assert (w / h).max() < ASPECT[1] + 0.02
    areas = w * h / (width * height)
    assert 0.075 < areas.min() < 0.1
    # Uniform in [.08, 1] but for the few largest boxes that do not fit: below .5 nothing is lost.
    small = areas[areas < 0.5]
    assert small.mean() == pytest.approx(0.29, abs=0.01)
    centers = (boxes[:, 0] + boxes[:, 2]) / 2
    assert centers.mean() == pytest.approx(width / 2, abs=5)


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [(300, 10, (143 + 1 / 3, 0, 156 + 2 / 3, 10)), (9, 100, (0, 44, 9, 56))],
)
def test_no_box_fits_an_extreme_image(width: int, height: int, box: tuple) -> None:
    # A tall strip and a long one: the largest box of an allowed aspect, in the center.
    found = random_box(np.random.default_rng(0), width, height, area=(1.0, 1.0))
    assert found == pytest.approx(box)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK"])
def test_every_kind_of_picture_becomes_color(mode: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (10, 8), (200, 100, 50)).convert(mode).save(
        file, "JPEG" if mode == "CMYK" else "PNG"
    )
    row = {"image": file.getvalue()}
    (split,) = of(Plain(1), Plain(1, {0: row})).chunks(size=4, count=1)
    expected = 124 if mode == "L" else [200, 100, 50]
    np.testing.assert_allclose(split.x[0].astype(int), np.broadcast_to(expected, (4, 4, 3)), atol=3)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": b"no picture"}, r"image 2 of 'toy' cannot be read \(UnidentifiedImageError"),
        ({"image": np.zeros((4, 4), np.float32), "label": "x"}, "image 2 of 'toy' cannot be read"),
        ({"label": 7}, r"image 2 of 'toy' has the label 7, but there are 5 classes \(0 to 4\)"),
        ({"label": -1}, "image 2 of 'toy' has the label -1"),
    ],
)
def test_a_bad_image_is_named(change: dict[str, Any], message: str, threads: int) -> None:
    records = Plain(4, {2: change})
    with pytest.raises(ValueError, match=message):
        list(of(records, threads=threads).batches(0, 0, size=4, batch_size=4))
    with pytest.raises(ValueError, match=message):
        list(of(Plain(4), records, threads=threads).chunks(size=4, count=4))


def test_impossible_settings_are_named() -> None:
    with pytest.raises(ValueError, match="threads must be a whole number of at least 0, got -1"):
        of(Plain(4), threads=-1)
    with pytest.raises(ValueError, match="4 examples fill no batch of 8"):
        of(Plain(4)).batches(0, 0, size=4, batch_size=8)
    with pytest.raises(ValueError, match="size must be"):
        of(Plain(4)).batches(0, 0, size=0, batch_size=2)


def test_without_grain_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ModuleNotFoundError, match=r"grain is not installed.*jaxrobust\[data\]"):
        of(Plain(4)).batches(0, 0, size=4, batch_size=2)


def test_a_prepared_set_of_many_sizes_is_read(tmp_path: Any) -> None:
    x = np.random.default_rng(0).integers(0, 256, (9, 24, 24, 3), dtype=np.uint8)
    y = np.arange(9) % 3
    features = {"image": image_feature((None, None, 3)), "label": class_feature()}
    prepare(tmp_path, "toy_set", {"train": (x, y), "validation": (x, y)}, features=features)
    found = open_stream("toy_set", test_split="validation", data_dir=tmp_path, threads=2)
    assert (found.name, found.num_classes, found.images, len(found.test)) == ("toy_set", 3, 9, 9)
    (split,) = found.chunks(size=21, count=9)
    # The central 21 of 24 pixels, one and a half off: each the mean of two neighbors a side.
    inner = x[0].astype(float)
    blended = (inner[1:-1] + inner[2:])[:21] / 2
    blended = (blended[:, 1:-1] + blended[:, 2:])[:, :21] / 2
    np.testing.assert_allclose(split.x[0], blended, atol=1.5)
    np.testing.assert_array_equal(split.y, y)
    few = open_stream(
        "toy_set", test_split="validation", data_dir=tmp_path, limit=4, test_limit=20, threads=0
    )
    assert (few.images, len(few.test)) == (4, 9)
    with pytest.raises(ValueError, match=r"has no split 'test'; it has: train, validation"):
        open_stream("toy_set", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="'imagenet2012' is not prepared in"):
        open_stream("imagenet2012", test_split="validation", data_dir=tmp_path)
    # before a set is looked for
    for threads in (-1, "8"):
        with pytest.raises(ValueError, match="threads must be a whole number of at least 0, got"):
            open_stream("imagenet2012", data_dir=tmp_path, threads=threads)
    for name in ("", 3, None):
        with pytest.raises(ValueError, match="asked for by its TFDS name, such as 'mnist', got"):
            open_stream(name, data_dir=tmp_path)
    with pytest.raises(ValueError, match="limit must be a whole number of at least 1, got 0"):
        open_stream("toy_set", test_split="validation", data_dir=tmp_path, limit=0)
