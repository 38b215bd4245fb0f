"""Embedded sets, the validation draw, pseudo-labels, and what `Dataset` refuses."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxrobust.data import Dataset, Split, assemble, load, pseudo_labeled
from jaxrobust.data.synthetic import synthetic


def same(a: Split, b: Split) -> bool:
    return np.array_equal(a.x, b.x) and np.array_equal(a.y, b.y)


def rows(split: Split) -> list[bytes]:
    return [x.tobytes() + y.tobytes() for x, y in zip(split.x, split.y, strict=True)]


def test_digits_hold_every_source_image_once():
    data = load("digits")
    assert data.train.x.shape == (1297, 8, 8, 1)
    assert data.test.x.shape == (500, 8, 8, 1)
    assert data.validation.x.shape == (0, 8, 8, 1)
    assert (data.train.size, data.shape, data.num_classes) == (1297, (8, 8, 1), 10)
    images, labels = load_digits(return_X_y=True)
    # Undoing the scaling recovers the source exactly, so sorted rows compare one to one.
    x = np.concatenate([data.train.x, data.test.x]).reshape(-1, 64)
    got = np.column_stack([np.rint(x * (16 / 255)), np.concatenate([data.train.y, data.test.y])])
    want = np.column_stack([images, labels])
    np.testing.assert_array_equal(got[np.lexsort(got.T)], want[np.lexsort(want.T)])


def test_digits_are_stratified():
    data = load("digits")
    _, labels = load_digits(return_X_y=True)
    share = np.bincount(labels) * 500 / 1797
    assert np.abs(np.bincount(data.test.y) - share).max() < 1


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_validation_is_disjoint_and_complete(name):
    whole, split = load(name), load(name, validation=100, seed=7)
    assert (split.validation.size, split.train.size) == (100, whole.train.size - 100)
    assert sorted(rows(split.train) + rows(split.validation)) == sorted(rows(whole.train))
    assert same(split.test, whole.test)


def test_seed_draws_the_validation_split_and_nothing_else():
    a, again, b = (load("digits", validation=100, seed=seed) for seed in (1, 1, 2))
    assert same(a.train, again.train)
    assert same(a.validation, again.validation)
    assert not same(a.validation, b.validation)
    assert same(load("digits", seed=1).train, load("digits", seed=2).train)
    assert same(a.test, b.test)


def test_limit_keeps_the_first_of_each_split():
    whole, cut = load("digits", validation=100), load("digits", validation=100, limit=20)
    for title in ("train", "validation", "test"):
        x, y = getattr(whole, title)
        assert same(getattr(cut, title), Split(x[:20], y[:20]))


def test_only_the_images_kept_are_read():
    source, asked = synthetic(), []

    def read(split: str, indices: np.ndarray) -> Split:
        asked.append(len(indices))
        return source.read(split, indices)

    assemble("synthetic", source._replace(read=read), validation=50, limit=10)
    assert asked == [10, 10, 10]


def test_synthetic_margin_is_as_documented():
    source = synthetic(train_size=200, test_size=61, classes=5, shape=(6, 6, 3), seed=3)
    data = assemble("made up", source)
    assert data.train.x.shape == (200, 6, 6, 3)
    assert data.test.x.shape == (61, 6, 6, 3)
    assert np.ptp(np.bincount(data.test.y)) == 1
    # The patterns, found from the data alone: where the class average is bright.
    x, y = data.train.x.reshape(200, -1).astype(float), data.train.y
    masks = np.stack([x[y == k].mean(0) > 128 for k in range(5)])
    assert (masks.sum(0) <= 1).all()
    np.testing.assert_array_equal(masks.sum(1), 108 // 5)
    for split in (data.train, data.test):
        means = split.x.reshape(split.size, -1).astype(float) @ masks.T / masks.sum(1)
        own = means[np.arange(split.size), split.y]
        means[np.arange(split.size), split.y] = -np.inf
        assert (own - means.max(1)).min() >= 64


def test_synthetic_follows_its_seed():
    a, again, b = (assemble("made up", synthetic(seed=seed)) for seed in (0, 0, 1))
    assert same(a.train, again.train)
    assert not same(a.train, b.train)
    assert same(a.train, load("synthetic").train)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load("digits", validation=-1), "validation must be a whole number of at least 0"),
        (lambda: load("digits", validation=0.1), "validation must be a whole number"),
        (lambda: load("digits", limit=0), "limit must be a whole number of at least 1, got 0"),
        (
            lambda: load("digits", validation=1297),
            "validation=1297 leaves no training images: 'digits' has 1297; ask for at most 1296",
        ),
        (lambda: synthetic(classes=1), "classes must be a whole number of at least 2, got 1"),
        (lambda: synthetic(train_size=0), "train_size must be a whole number of at least 1"),
        (lambda: synthetic(test_size=0), "test_size must be a whole number of at least 1"),
        (lambda: synthetic(classes=5, shape=(2, 2, 1)), "5 classes need as many pixels, .* has 4"),
    ],
)
def test_argument_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((3, 4, 4, 1))}, r"the test split of 'toy' must hold uint8 .* got float64"),
        ({"x": np.zeros(3, np.uint8)}, r"\[N, H, W, C\], got uint8 of shape \(3,\)"),
        (
            {"x": np.zeros((3, 16), np.uint8)},
            r"of shape \(16,\) and type uint8, the train",
        ),
        ({"x": np.zeros((3, 4, 4, 1), np.float32)}, r"type float32, the train split .* and uint8"),
        (
            {"x": np.zeros((3, 5, 4, 1), np.uint8)},
            r"shape \(5, 4, 1\) and type uint8, the train split \(4, 4, 1\)",
        ),
        ({"y": np.array([0, 1, 2], np.int32)}, r"the test split of 'toy': labels span \[0, 2\]"),
        ({"y": np.array([0, -1, 1], np.int32)}, r"labels span \[-1, 1\]"),
        ({"y": np.zeros(2, np.int32)}, r"labels must have shape \(3,\)"),
        ({"y": np.zeros(3)}, r"labels must be integers, got float64"),
    ],
)
def test_dataset_refuses_unsuitable_splits(change, message):
    good = Split(np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3, np.int32))
    with pytest.raises(ValueError, match=message):
        Dataset("toy", "Toy", 2, train=good, validation=good, test=good._replace(**change))


def test_dataset_refuses_one_class():
    good = Split(np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3, np.int32))
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        Dataset("toy", "Toy", 1, train=good, validation=good, test=good)


def test_pseudo_labeled_images_come_after_the_labeled():
    data = load("synthetic", validation=20)
    assert data.labeled is None
    x, y = data.test.x[:7], data.test.y[:7].astype(np.int64)
    more = pseudo_labeled(data, x, y)
    assert more.labeled == data.train.size
    assert same(more.train, Split(np.concatenate([data.train.x, x]), np.append(data.train.y, y)))
    assert more.train.y.dtype == np.int32
    assert more.label == f"{data.label} + 7 pseudo-labeled"
    assert same(more.test, data.test)
    assert same(more.validation, data.validation)
    again = pseudo_labeled(more, x[:2], y[:2])
    assert (again.labeled, again.train.size) == (data.train.size, data.train.size + 9)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((2, 4, 4, 1)), np.zeros(2, int), r"pseudo-labeled split of 'toy' .* got float64"),
        (
            np.zeros((2, 5, 4, 1), np.uint8),
            np.zeros(2, int),
            r"\(5, 4, 1\) and .* the train",
        ),
        (np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 2]), r"labels span \[0, 2\]"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(3, int), r"labels must have shape \(2,\)"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2), "labels must be integers, got float64"),
        (np.zeros((0, 4, 4, 1), np.uint8), np.zeros(0, int), "images must be .* at least 1, got 0"),
    ],
)
def test_pseudo_labels_that_do_not_fit_are_refused(x, y, message):
    good = Split(np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3, np.int32))
    with pytest.raises(ValueError, match=message):
        pseudo_labeled(Dataset("toy", "Toy", 2, good, good, good), x, y)


@pytest.mark.parametrize(
    ("labeled", "message"),
    [
        (0, "labeled must be a whole number of at least 1, got 0"),
        (3, "labeled=3 leaves no pseudo-labeled images among the 3 of 'toy'; use labeled=None"),
    ],
)
def test_the_labeled_are_a_part_of_the_training_images(labeled, message):
    good = Split(np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3, np.int32))
    with pytest.raises(ValueError, match=message):
        Dataset("toy", "Toy", 2, good, good, good, labeled=labeled)
