"""A made-up set of photographs' shape: JPEG files of many sizes, in the format of TFDS."""

from __future__ import annotations

import colorsys
import io
import json
import os
import secrets
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from jaxrobust import checks

NAME = "made_up"
CLASSES = 10
SIDES = (64, 100)
"""Sides of images, in pixels, least and most: height and width are drawn from these
independently."""

SATURATION, TINT, STRIPES, NOISE = 0.25, 0.01, 0.1, 0.05
"""Saturation of colors; deviation of the tint; amplitude of the stripes; deviation of the noise."""

_FEATURES = "tensorflow_datasets.core.features."


def made_up(folder: Path, *, train: int, test: int, seed: int = 0) -> Path:
    """Writes the set, unless it is there, to be read as TFDS's `made_up`; returns its data_dir.

    An image of class k has the k-th of ten hues, so pale that a perturbation of 4/255 matters, a
    brightness and a tint of its own, and faint stripes under noise, whose width and direction
    depend on the class. JPEG, quality 90.

    Raises:
      ValueError: fewer images than classes. OSError: the folder cannot be written.
    """
    for name, count in (("train", train), ("test", test)):
        checks.at_least(f"number of {name} images", count, CLASSES)
    root = folder / f"{train}-{test}-seed{seed}"
    version = root / NAME / "1.0.0"
    if not version.exists():
        # Written beside its place and moved there whole.
        temporary = root / f".{secrets.token_hex(6)}.tmp"
        temporary.mkdir(parents=True)
        try:
            rng = np.random.default_rng(seed)
            infos = [
                _write_split(temporary, split, count, rng)
                for split, count in (("train", train), ("test", test))
            ]
            _write_descriptions(temporary, infos)
            version.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, version)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return root


def draw(rng: np.random.Generator, label: int) -> np.ndarray:
    """An image of the class, uint8 `[H, W, 3]`."""
    height, width = rng.integers(*SIDES, 2, endpoint=True)
    angle, period = np.pi * label / CLASSES, 6 + 2 * (label % 5)
    rows, columns = np.mgrid[:height, :width]
    along = rows * np.sin(angle) + columns * np.cos(angle)
    wave = np.sin(2 * np.pi * (along / period + rng.uniform()))
    color = np.asarray(colorsys.hsv_to_rgb(label / CLASSES, SATURATION, rng.uniform(0.5, 0.9)))
    color += rng.normal(0.0, TINT, 3)
    noise = rng.normal(0.0, NOISE, (height, width, 3))
    return np.clip(255 * (color + STRIPES * wave[..., None] + noise), 0, 255).astype(np.uint8)


def _write_split(folder: Path, split: str, count: int, rng: np.random.Generator) -> dict:
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    file = folder / f"{NAME}-{split}.array_record-00000-of-00001"
    writer = ArrayRecordWriter(str(file), "group_size:1")
    for label in rng.permutation(np.arange(count) % CLASSES):
        encoded = io.BytesIO()
        Image.fromarray(draw(rng, int(label))).save(encoded, "JPEG", quality=90)
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(encoded.getvalue())
        example.features.feature["label"].int64_list.value.append(int(label))
        writer.write(example.SerializeToString())
    writer.close()
    return {
        "name": split,
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "shardLengths": [str(count)],
        "numBytes": str(file.stat().st_size),
    }


def _write_descriptions(folder: Path, splits: list[dict]) -> None:
    shape = {"dimensions": ["-1", "-1", "3"]}
    features = {
        "image": {
            "pythonClassName": f"{_FEATURES}image_feature.Image",
            "image": {"dtype": "uint8", "shape": shape, "encodingFormat": "jpeg"},
        },
        "label": {
            "pythonClassName": f"{_FEATURES}class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(CLASSES)},
        },
    }
    described = {
        "features.json": {
            "pythonClassName": f"{_FEATURES}features_dict.FeaturesDict",
            "featuresDict": {"features": features},
        },
        "dataset_info.json": {
            "name": NAME,
            "version": "1.0.0",
            "fileFormat": "array_record",
            "splits": splits,
        },
    }
    for name, content in described.items():
        (folder / name).write_text(json.dumps(content))
