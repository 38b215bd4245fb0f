"""Data sets read from folders of images by class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxrobust.data import from_folder

RNG = np.random.default_rng(0)


def draw(path: Path, shape: tuple[int, ...] = (5, 6, 3), mode: str | None = None) -> np.ndarray:
    """A picture of noise, saved at `path`; its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return pixels


def pets(root: Path, each: int = 5, shape: tuple[int, ...] = (5, 6, 3)) -> dict[bytes, int]:
    """Folders of cats and dogs; the class by the pixels."""
    return {
        draw(root / name / f"{i}.png", shape).tobytes(): label
        for label, name in enumerate(("cats", "dogs"))
        for i in range(each)
    }


def test_every_image_is_there_once_with_its_class(tmp_path: Path) -> None:
    known = pets(tmp_path / "pets")
    (tmp_path / "pets" / "cats" / "notes.txt").write_text("no image")
    (tmp_path / "pets" / ".hidden").mkdir()
    made = from_folder(tmp_path / "pets", validation=3)
    splits = [made.train, made.validation, made.test]
    assert [s.size for s in splits] == [5, 3, 2]
    found = {x.tobytes(): int(y) for s in splits for x, y in zip(s.x, s.y, strict=True)}
    assert found == known
    assert (made.name, made.num_classes, made.shape) == ("pets", 2, (5, 6, 3))
    again, other = (from_folder(tmp_path / "pets", validation=3, seed=s) for s in (0, 1))
    np.testing.assert_array_equal(again.test.x, made.test.x)
    assert not np.array_equal(other.test.x, made.test.x)


def test_the_given_split_is_kept(tmp_path: Path) -> None:
    train, test = pets(tmp_path / "train"), pets(tmp_path / "test", each=2)
    made = from_folder(tmp_path)
    assert {x.tobytes() for x in made.train.x} == set(train)
    assert {x.tobytes() for x in made.test.x} == set(test)


def test_a_limit_keeps_some_of_every_class(tmp_path: Path) -> None:
    pets(tmp_path, each=20)
    made = from_folder(tmp_path, limit=12)
    assert (made.train.size, set(made.train.y)) == (12, {0, 1})


def test_gray_images_have_one_channel_and_mixed_ones_three(tmp_path: Path) -> None:
    pets(tmp_path, shape=(4, 4))
    assert from_folder(tmp_path).shape == (4, 4, 1)
    draw(tmp_path / "dogs" / "color.bmp", (4, 4, 3))
    assert from_folder(tmp_path).shape == (4, 4, 3)


def test_images_of_several_sizes_are_refused_and_scaled_when_told(tmp_path: Path) -> None:
    pets(tmp_path)
    draw(tmp_path / "dogs" / "wide.png", (8, 12, 3))
    with pytest.raises(ValueError, match=r"of one size, but .* (5x6|8x12) .*give size=, such as"):
        from_folder(tmp_path)
    made = from_folder(tmp_path, size=4)
    assert made.shape == (4, 4, 3)


def test_scaling_takes_the_central_square(tmp_path: Path) -> None:
    # Bilinear scaling looks a pixel of the result beyond the square.
    stripes = np.zeros((4, 16, 3), np.uint8)
    stripes[:, 4:12] = 200
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(stripes).save(tmp_path / name / "1.png")
    made = from_folder(tmp_path, size=2, test=0)
    np.testing.assert_array_equal(made.train.x, np.full((2, 2, 2, 3), 200))


def broken(root: Path) -> None:
    (root / "cats" / "0.png").write_bytes(b"no image")


def cut_short(root: Path) -> None:
    file = root / "cats" / "0.png"
    file.write_bytes(file.read_bytes()[:60])


def deep(root: Path) -> None:
    Image.fromarray(np.zeros((5, 6), np.uint16)).save(root / "cats" / "0.png")


def script(root: Path) -> None:
    # Pillow would hand PostScript to Ghostscript.
    (root / "cats" / "0.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (broken, r"cats/0.png cannot be read as an image \(UnidentifiedImageError"),
        (script, r"cats/0.png cannot be read as an image \(UnidentifiedImageError"),
        (cut_short, r"cats/0.png cannot be read as an image"),
        (deep, r"cats/0.png has pixels of the mode I;16; save it with 8 bits"),
        (lambda root: (root / "birds").mkdir(), r"birds holds no images; known are \.bmp"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    pets(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        from_folder(tmp_path)


def test_folders_of_another_form_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        from_folder(tmp_path / "nowhere")
    draw(tmp_path / "cats" / "0.png")
    with pytest.raises(ValueError, match="at least 2 classes, and has: cats"):
        from_folder(tmp_path)
    pets(tmp_path / "split" / "train")
    pets(tmp_path / "split" / "test")
    draw(tmp_path / "split" / "test" / "birds" / "0.png")
    with pytest.raises(ValueError, match="the class 'birds' is in one of train/ and test/ alone"):
        from_folder(tmp_path / "split")
    with pytest.raises(ValueError, match="test=10 leaves no training images"):
        from_folder(tmp_path / "split" / "train", test=10)
