"""HAR's text files, made up in the published form."""

from pathlib import Path

import numpy as np
import pytest

from jaxrobust import data

FEATURES, SIZES = 561, {"train": 24, "test": 12}


def write(folder: Path, *, flat: bool = False) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Files as the published ones: two blanks and sixteen digits a number, labels from 1 to 6."""
    draw, made = np.random.default_rng(0), {}
    for split, count in SIZES.items():
        x = np.clip(draw.normal(0, 0.5, (count, FEATURES)), -1, 1)
        y = np.arange(count) % 6 + 1
        place = folder if flat else folder / split
        place.mkdir(parents=True, exist_ok=True)
        lines = ["".join(f" {value: .7e}" for value in row) for row in x]
        (place / f"X_{split}.txt").write_text("\n".join(lines) + "\n")
        (place / f"y_{split}.txt").write_text("\n".join(map(str, y)) + "\n")
        made[split] = x, y
    return made


@pytest.mark.parametrize("flat", [False, True])
def test_features_and_labels_are_those_of_the_files(tmp_path: Path, flat: bool) -> None:
    made = write(tmp_path, flat=flat)
    signed = data.from_har(tmp_path, scaled=False)
    unit = data.from_har(tmp_path)
    assert (unit.num_classes, unit.shape, unit.name) == (6, (FEATURES,), "har")
    for split, (x, y) in made.items():
        raw, scaled = getattr(signed, split), getattr(unit, split)
        np.testing.assert_allclose(raw.x, x, atol=1e-6)
        np.testing.assert_allclose(scaled.x, (x + 1) / 2, atol=1e-6)
        assert (scaled.x.dtype, scaled.y.dtype) == (np.float32, np.int32)
        assert scaled.x.min() >= 0
        assert scaled.x.max() <= 1
        np.testing.assert_array_equal(scaled.y, y - 1)


def test_some_are_held_out_and_some_left_away(tmp_path: Path) -> None:
    write(tmp_path)
    found = data.from_har(tmp_path, validation=4, limit=10)
    assert (found.train.size, found.validation.size, found.test.size) == (10, 4, 10)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*unpack the UCI"):
        data.from_har(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"holds no train/X_train\.txt"):
        data.from_har(tmp_path)
    write(tmp_path)
    file = tmp_path / "test" / "y_test.txt"
    labels = file.read_text()
    for text, message in (
        (labels.replace("1", "0"), "labels from 0 to 6, expected 1 to 6"),
        (labels[2:], "holds 11 labels for 12 examples"),
        ("walking\n", "something else than rows of numbers"),
        ("\n", "is empty"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            data.from_har(tmp_path)
    file.write_text(labels)
    features = tmp_path / "test" / "X_test.txt"
    rows = features.read_text().splitlines()
    features.write_text("\n".join(row.rsplit(" ", 1)[0] for row in rows))
    with pytest.raises(ValueError, match=r"561 features and the test examples 560"):
        data.from_har(tmp_path)
    features.write_text("\n".join(rows).replace("e-01", "e+01", 1))
    with pytest.raises(ValueError, match=r"features up to .*the published ones lie in \[-1, 1\]"):
        data.from_har(tmp_path)
