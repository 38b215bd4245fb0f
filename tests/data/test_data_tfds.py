"""Reading prepared TFDS sets: tiny ones made here, and the real ones where they are."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from jaxrobust.data import load
from jaxrobust.data.tfds import tfds

ROOT = Path(__file__).resolve().parents[2]
FEATURES = "tensorflow_datasets.core.features."


def image_feature(shape: tuple[int | None, ...], **more: str) -> dict:
    dimensions = [str(-1 if size is None else size) for size in shape]
    return {
        "pythonClassName": FEATURES + "image_feature.Image",
        "image": {"dtype": "uint8", "shape": {"dimensions": dimensions}, **more},
    }


def class_feature(count: int = 3) -> dict:
    return {
        "pythonClassName": FEATURES + "class_label_feature.ClassLabel",
        "classLabel": {"numClasses": str(count)},
    }


def text_feature() -> dict:
    return {"pythonClassName": FEATURES + "text_feature.Text", "text": {}}


def encode(x: np.ndarray, encoding: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(x.squeeze(-1) if x.shape[-1] == 1 else x).save(file, encoding)
    return file.getvalue()


class Record(NamedTuple):
    """A whole record in place of an image."""

    data: bytes


def prepare(
    root: Path,
    name: str,
    splits: dict[str, tuple[np.ndarray, np.ndarray]],
    *,
    features: dict | None = None,
    encoding: str = "png",
    file_format: str = "array_record",
) -> None:
    """Writes a set as TFDS would, with TFDS's own record layout and no TensorFlow."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    shape = next(iter(splits.values()))[0][0].shape
    features = features or {
        "image": image_feature(shape, **({"encodingFormat": "jpeg"} if encoding == "jpeg" else {})),
        "label": class_feature(),
    }
    (folder / "features.json").write_text(
        json.dumps(
            {
                "pythonClassName": FEATURES + "features_dict.FeaturesDict",
                "featuresDict": {"features": features},
            }
        )
    )
    infos = []
    for split, (x, y) in splits.items():
        infos.append(
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "shardLengths": [str(len(y))],
                "numBytes": "1",
            }
        )
        writer = ArrayRecordWriter(
            str(folder / f"{name}-{split}.{file_format}-00000-of-00001"), "group_size:1"
        )
        for image, label in zip(x, y, strict=True):
            if isinstance(image, Record):
                writer.write(image.data)
                continue
            example = tf_example_pb2.Example()
            feature = example.features.feature
            data = image if isinstance(image, bytes) else encode(image, encoding)
            feature["image"].bytes_list.value.append(data)
            feature["label"].int64_list.value.append(int(label))
            writer.write(example.SerializeToString())
        writer.close()
    (folder / "dataset_info.json").write_text(
        json.dumps({"name": name, "version": "1.0.0", "fileFormat": file_format, "splits": infos})
    )


def made_up(shape: tuple[int, ...] = (5, 4, 3), top: int = 2, size: int = 9):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (size, *shape), dtype=np.uint8)
    return x, np.arange(size) % (top + 1)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_pixels_and_labels_come_back_exactly(tmp_path, channels, monkeypatch):
    monkeypatch.setattr("jaxrobust.data.tfds.CHUNK", 4)
    train, test = made_up((5, 4, channels)), made_up((5, 4, channels), size=6)
    prepare(tmp_path, "toy_set", {"train": train, "test": test})
    data = load("toy_set", data_dir=tmp_path)
    assert (data.name, data.label, data.num_classes) == ("toy_set", "toy_set", 3)
    for split, (x, y) in ((data.train, train), (data.test, test)):
        assert split.x.dtype == np.uint8
        assert split.y.dtype == np.int32
        np.testing.assert_array_equal(split.x, x)
        np.testing.assert_array_equal(split.y, y)
    shuffled = tfds("toy_set", data_dir=tmp_path).read("train", np.array([8, 0, 3, 3, 5]))
    np.testing.assert_array_equal(shuffled.x, train[0][[8, 0, 3, 3, 5]])


@pytest.mark.parametrize(
    ("name", "encoding", "label"),
    [
        ("cifar10", "jpeg", "CIFAR-10 (JPEG re-encoded)"),
        ("cifar10", "png", "CIFAR-10"),
        # Published as JPEG, for all we know: nothing was re-encoded.
        ("toy_set", "jpeg", "toy_set"),
    ],
)
def test_label_tells_reencoded_pixels(tmp_path, name, encoding, label):
    x = np.full((3, 32, 32, 3), 100, np.uint8)
    splits = {"train": (x, np.arange(3)), "test": (x, np.arange(3))}
    prepare(tmp_path, name, splits, encoding=encoding)
    data = load(name, data_dir=tmp_path)
    assert data.label == label
    np.testing.assert_allclose(data.train.x.astype(int), 100, atol=1)


def test_folder_from_the_environment(tmp_path, monkeypatch):
    prepare(tmp_path, "toy_set", {"train": made_up(), "test": made_up()})
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert load("toy_set", limit=2).train.size == 2


@pytest.mark.parametrize("name", ["kmnist", "emnist/letters"])
def test_known_set_that_is_not_prepared_gives_the_command(tmp_path, name):
    with pytest.raises(FileNotFoundError) as caught:
        load(name, data_dir=tmp_path)
    message = str(caught.value)
    assert f"{name!r} is not prepared in {tmp_path}" in message
    assert "TFDS_DATA_DIR" in message
    command = message.split('python -c "')[1].rstrip('"')
    compile(command, "command", "exec")
    assert f"'{name}'" in command
    assert "file_format='array_record'" in command
    assert command.endswith(".download_and_prepare()")


def test_unknown_set_suggests_the_nearest(tmp_path):
    with pytest.raises(
        ValueError, match=r"unknown data set 'mnst'; did you mean 'mnist'\? Known: d"
    ):
        load("mnst", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"unknown data set 'digit'; did you mean 'digits'\?"):
        load("digit", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"unknown data set 'qqqqqq'\. Known: digits, synthetic"):
        load("qqqqqq", data_dir=tmp_path)


def test_missing_splits_are_named(tmp_path):
    prepare(tmp_path, "toy_set", {"train": made_up(), "validation": made_up()})
    with pytest.raises(ValueError, match=r"has no split 'test'; it has: train, validation"):
        load("toy_set", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            {"text": text_feature(), "label": class_feature()},
            r"no image-classification set: .* and has: label, text",
        ),
        (
            {"image": image_feature((5, 4, 3)), "label": text_feature()},
            r"no image-classification set",
        ),
        (
            {"image": image_feature((None, None, 3)), "label": class_feature()},
            r"shape \(None, None, 3\) and type uint8; only uint8 images of one fixed size",
        ),
        (
            {"image": image_feature((5, 4, 1), dtype="uint16"), "label": class_feature()},
            r"type uint16; only uint8",
        ),
    ],
)
def test_unsuitable_features_are_named(tmp_path, features, message):
    prepare(tmp_path, "toy_set", {"train": made_up(), "test": made_up()}, features=features)
    with pytest.raises(ValueError, match=message):
        load("toy_set", data_dir=tmp_path)


def test_labels_out_of_range(tmp_path):
    prepare(tmp_path, "toy_set", {"train": made_up(), "test": made_up(top=3)})
    with pytest.raises(ValueError, match=r"the test split of 'toy_set': labels span \[0, 3\]"):
        load("toy_set", data_dir=tmp_path)


def bomb(side: int) -> bytes:
    """A small PNG of side x side black pixels."""

    def part(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 + 3 * 64) * 64)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", pixels)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.zeros((4, 5, 3), np.uint8), "the image is 4x5, not 5x4"),
        (np.zeros((5, 4, 3), np.uint8), None),
        (bomb(60_000), "not 5x4|DecompressionBomb"),
        (encode(made_up()[0][0], "png")[:60], ""),
        (b"no picture", "UnidentifiedImageError"),
        (b"", ""),
        (Record(b"no message"), ""),
        (Record(b""), ""),
    ],
)
def test_a_broken_row_is_named(tmp_path, image, told):
    x, y = made_up()
    rows = [*x[:4], image, *x[5:]]
    prepare(tmp_path, "toy_set", {"train": (x, y), "test": (rows, y)})
    if told is None:
        load("toy_set", data_dir=tmp_path)
        return
    with pytest.raises(ValueError, match=rf"row 4 of the test split of 'toy_set' .*({told})"):
        load("toy_set", data_dir=tmp_path)


@pytest.mark.parametrize("form", ["now", "snake", "old", "inner"])
def test_features_cannot_name_code_to_run(tmp_path, form, monkeypatch):
    (tmp_path / "stranger.py").write_text("raise SystemExit('was run')")
    monkeypatch.syspath_prepend(tmp_path)
    kind = "stranger.Mine"
    features = {"image": image_feature((5, 4, 3)), "label": class_feature()}
    features["more"] = {
        "now": {"pythonClassName": kind, "text": {}},
        "snake": {"python_class_name": kind, "text": {}},
        "old": {"type": kind, "content": {}},
        "inner": {
            "pythonClassName": FEATURES + "sequence_feature.Sequence",
            "sequence": {"feature": {"pythonClassName": kind, "text": {}}, "length": "-1"},
        },
    }[form]
    prepare(tmp_path, "toy_set", {"train": made_up(), "test": made_up()}, features=features)
    with pytest.raises(ValueError, match=r"names the feature class 'stranger\.Mine' in .*features"):
        load("toy_set", data_dir=tmp_path)
    assert "stranger" not in sys.modules


def test_broken_features_are_named(tmp_path):
    prepare(tmp_path, "toy_set", {"train": made_up(), "test": made_up()})
    (tmp_path / "toy_set" / "1.0.0" / "features.json").write_text("{")
    with pytest.raises(ValueError, match=r"'toy_set': .*features\.json cannot be read"):
        load("toy_set", data_dir=tmp_path)


def test_other_file_format_gives_the_command(tmp_path):
    prepare(tmp_path, "toy_set", {"train": made_up(), "test": made_up()}, file_format="tfrecord")
    with pytest.raises(FileNotFoundError, match="stored as tfrecord") as caught:
        load("toy_set", data_dir=tmp_path)
    folder = tmp_path / "toy_set" / "1.0.0"
    assert f"--dataset_version_dir={folder} --out_file_format=array_record" in str(caught.value)


def test_converted_set_is_read(tmp_path):
    """As `tfds convert_format` leaves a set: array_record shards beside the first format's."""
    train = made_up()
    prepare(tmp_path, "toy_set", {"train": train, "test": made_up()})
    path = tmp_path / "toy_set" / "1.0.0" / "dataset_info.json"
    info = json.loads(path.read_text())
    info |= {"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]}
    path.write_text(json.dumps(info))
    np.testing.assert_array_equal(load("toy_set", data_dir=tmp_path).train.x, train[0])


@pytest.mark.parametrize("opencv", [False, True])
def test_reading_is_quiet_and_imports_no_tensorflow(tmp_path, opencv):
    # What else TFDS imports where it finds it, such as OpenCV, is not ours to promise.
    if opencv:
        (tmp_path / "cv2.py").write_text("")
    prepare(tmp_path, "mnist", {"train": made_up((5, 4, 1)), "test": made_up((5, 4, 1))})
    script = (
        "import sys; from jaxrobust.data import load; "
        f"load('mnist', data_dir={str(tmp_path)!r}); "
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture(scope="module")
def prepared(shared):
    return shared / "tensorflow_datasets"


@pytest.mark.slow
def test_mnist_class_counts(prepared):
    data = load("mnist", data_dir=prepared)
    assert (data.label, data.shape) == ("MNIST", (28, 28, 1))
    assert np.bincount(data.train.y).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert np.bincount(data.test.y).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    # The published training mean of the pixels, scaled to [0, 1].
    assert data.train.x.mean() / 255 == pytest.approx(0.1307, abs=5e-5)


def test_mnist_original_order(prepared, shared):
    position = np.load(shared / "reference" / "mnist_test_order.npz")["position"]
    test = tfds("mnist", data_dir=prepared).read("test", position[:20])
    # The first labels of the classic t10k file.
    assert test.y.tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9, 0, 6, 9, 0, 1, 5, 9, 7, 3, 4]


def test_cifar10_says_that_it_is_reencoded(prepared):
    data = load("cifar10", data_dir=prepared, limit=200, validation=5000)
    assert data.label == "CIFAR-10 (JPEG re-encoded)"
    assert data.shape == (32, 32, 3)
    assert data.num_classes == 10
    # The published channel means; 200 images estimate them to about 0.01.
    np.testing.assert_allclose(
        data.train.x.mean((0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=0.05
    )
