"""Image-classification sets prepared by TensorFlow Datasets, read without TensorFlow."""

from __future__ import annotations

import difflib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxrobust import checks
from jaxrobust.data.types import Source, Split

LABELS = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "kmnist": "KMNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "svhn_cropped": "SVHN",
}
"""Names to print; all of these sets are published as exact pixels."""

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
CHUNK = 4096


def tfds(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Source:
    """Opens a set that TFDS has prepared as array_record files, for example "cifar10".

    Any TFDS name with an optional config and version works ("emnist/letters", "mnist:3.0.1"),
    provided that the set has the features `image` (uint8, one size) and `label` and the splits
    train and test. Reading needs neither TensorFlow nor the network; preparing a set for the
    first time needs both. Nothing is cached on disk.

    Args:
      name: TFDS name.
      data_dir: folder of prepared sets; by default the environment variable TFDS_DATA_DIR,
        else `~/tensorflow_datasets`, the default of TFDS.

    Raises:
      ValueError: TFDS knows no set of this name, the set has features of other classes than TFDS'
        own, or it cannot be read as images of one size with labels and splits train and test;
        when images are read, one that is broken or of another size, by split and row.
      FileNotFoundError: the set is not prepared in `data_dir`, or not as array_record; the
        message holds the command that mends it.
    """
    prepared = open_prepared(name, ("train", "test"), data_dir=data_dir)
    shape = _fixed_shape(name, prepared.image)
    sources = prepared.sources

    def read(split: str, indices: np.ndarray) -> Split:
        return _read(f"the {split} split of {name!r}", sources[split], indices, shape)

    return Source(
        prepared.label, prepared.num_classes, len(sources["train"]), len(sources["test"]), read
    )


class Prepared(NamedTuple):
    """A prepared set whose images are still encoded."""

    label: str
    num_classes: int
    image: Any
    """The TFDS feature."""
    sources: Mapping[str, Any]
    """Sources by split: random access to rows `{"image": bytes, "label": int, ...}`."""


def open_prepared(
    name: str, splits: Sequence[str], *, data_dir: str | os.PathLike[str] | None = None
) -> Prepared:
    """Opens splits of an image-classification set; arguments and errors as `tfds`."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"a data set is asked for by its TFDS name, such as 'mnist', got {name!r}")
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    builder = _open(name, root.expanduser())
    info = builder.info
    image, num_classes = _image_and_classes(name, info.features)
    missing = [split for split in splits if split not in info.splits]
    if missing:
        raise ValueError(
            f"data set {name!r} has no split {' and no split '.join(map(repr, missing))}; "
            f"it has: {', '.join(sorted(info.splits))}"
        )
    sources = {split: _data_source(name, builder, split) for split in splits}
    label = LABELS.get(name, name)
    encoding = image.to_json()["content"].get("encodingFormat", "png")
    if encoding == "jpeg" and name in LABELS:
        label += " (JPEG re-encoded)"
    return Prepared(label, num_classes, image, sources)


def _open(name: str, root: Path) -> Any:
    # Reads the files alone: `tfds.builder` would also run the set's own code and, for a set that
    # is not prepared, look for it on the network. This is `builder_from_files` in two steps, as
    # the second imports what the features name.
    with checks.extra("data"):
        from tensorflow_datasets.core import read_only_builder
        from tensorflow_datasets.core.registered import DatasetNotFoundError
        from tensorflow_datasets.core.utils.error_utils import reraise_with_context

    try:
        with reraise_with_context(DatasetNotFoundError):
            folder = read_only_builder._find_builder_dir(name, data_dir=root)
    except DatasetNotFoundError:
        folder = None
    if folder is not None:
        _check_classes(name, Path(folder) / "features.json")
        return read_only_builder.builder_from_directory(folder)
    _check_known(name)
    raise FileNotFoundError(
        f"data set {name!r} is not prepared in {root} (the argument data_dir, else the "
        "environment variable TFDS_DATA_DIR, else ~/tensorflow_datasets). Point it at the folder "
        "that holds the set, or prepare the set there, once, with:\n"
        '  pip install tensorflow && python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{root}', file_format='array_record')"
        '.download_and_prepare()"'
    )


def _check_classes(name: str, file: Path) -> None:
    """Raises ValueError unless all feature classes that `file` names are TFDS' own.

    TFDS imports the module of any other class, and so runs its code.
    """
    from tensorflow_datasets import features

    own = {f"{kind.__module__}.{kind.__qualname__}" for kind in _classes(features)}
    try:
        named = set(_feature_classes(json.loads(file.read_text(encoding="utf-8"))))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"data set {name!r}: {file} cannot be read ({error})") from error
    foreign = sorted(named - own)
    if foreign:
        raise ValueError(
            f"data set {name!r} names the feature class {foreign[0]!r} in {file}, whose code would "
            "run on reading; only the classes of tensorflow_datasets.features are read"
        )


def _classes(module: Any) -> list[type]:
    return [value for value in vars(module).values() if isinstance(value, type)]


def _feature_classes(tree: Any) -> Iterator[str]:
    """Every class name in a features.json, in its present form, either spelling, or the old one."""
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    for part in parts:
        yield from _feature_classes(part)
    if isinstance(tree, dict):
        keys = ("pythonClassName", "python_class_name", *(("type",) if "content" in tree else ()))
        yield from (str(tree[key]) for key in keys if key in tree)


def _check_known(name: str) -> None:
    from tensorflow_datasets import list_builders

    known = ["digits", "synthetic", *list_builders(with_community_datasets=False)]
    stem = name.split("/")[0].split(":")[0]
    if stem not in known:
        near = difflib.get_close_matches(stem, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(
            f"unknown data set {name!r}{hint} Known: digits, synthetic, {', '.join(LABELS)} and "
            "every other TFDS name of an image-classification set"
        )


def _image_and_classes(name: str, features: Any) -> tuple[Any, int]:
    from tensorflow_datasets import features as kinds

    held = dict(features.items()) if isinstance(features, kinds.FeaturesDict) else {}
    image, label = held.get("image"), held.get("label")
    if not (isinstance(image, kinds.Image) and isinstance(label, kinds.ClassLabel)):
        raise ValueError(
            f"data set {name!r} is no image-classification set: it needs the features image and "
            f"label, and has: {', '.join(sorted(held)) or features}"
        )
    if label.num_classes is None:
        raise ValueError(f"data set {name!r} does not say how many classes it has")
    return image, label.num_classes


def _fixed_shape(name: str, image: Any) -> tuple[int, ...]:
    if None in image.shape or image.shape[-1] not in MODES or image.np_dtype != np.uint8:
        raise ValueError(
            f"data set {name!r} holds images of shape {image.shape} and type "
            f"{np.dtype(image.np_dtype).name}; only uint8 images of one fixed size are supported"
        )
    return image.shape


def _data_source(name: str, builder: Any, split: str) -> Any:
    from tensorflow_datasets import decode

    try:
        return builder.as_data_source(split=split, decoders={"image": decode.SkipDecoding()})
    except NotImplementedError as error:
        raise FileNotFoundError(
            f"data set {name!r} in {builder.data_path} is stored as "
            f"{builder.info.file_format.value}, which needs TensorFlow to read. Convert it, once, "
            f"with:\n  pip install tensorflow && tfds convert_format "
            f"--dataset_version_dir={builder.data_path} --out_file_format=array_record"
        ) from error


def _read(where: str, source: Any, indices: np.ndarray, shape: tuple[int, ...]) -> Split:
    x = np.empty((len(indices), *shape), np.uint8)
    y = np.empty(len(indices), np.int32)
    for start in range(0, len(indices), CHUNK):
        chunk = indices[start : start + CHUNK].tolist()
        try:
            rows = source.__getitems__(chunk)
        except Exception:
            # Some row is broken: one by one, it can be named.
            rows = map(source.__getitem__, chunk)
        rows = iter(rows)
        for i, index in enumerate(chunk, start):
            try:
                row = next(rows)
                x[i], y[i] = _decode(row["image"], shape), row["label"]
            except Exception as error:
                # Foreign bytes fail in many ways: in the record, its message, or the picture.
                raise ValueError(
                    f"row {index} of {where} cannot be read ({type(error).__name__}: {error}); "
                    "prepare the set again"
                ) from error
    return Split(x, y)


def _decode(encoded: bytes, shape: tuple[int, ...]) -> np.ndarray:
    # Measured: images this small decode no faster in threads, and naming the formats (the only
    # two that TFDS writes) saves a sixth of the time.
    image: Image.Image = Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG"))
    height, width = shape[:2]
    # The size is in the header: a picture of another one is never unpacked.
    if image.size != (width, height):
        raise ValueError(f"the image is {image.size[1]}x{image.size[0]}, not {height}x{width}")
    if image.mode != MODES[shape[-1]]:
        image = image.convert(MODES[shape[-1]])
    return np.frombuffer(image.tobytes(), np.uint8).reshape(shape)
