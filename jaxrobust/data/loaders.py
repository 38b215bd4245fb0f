"""Streams of one's own: whatever gives examples, as a feed for `training.fit_stream`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import jax
import numpy as np
from PIL import Image

from jaxrobust import checks
from jaxrobust.types import Batch

Factory = Callable[[int], Iterable[Any]]
"""Epoch, from 0 -> what it shows, in its order."""


@dataclasses.dataclass(frozen=True, eq=False)
class Loader:
    """A feed made of anything that gives examples, see `stream_of`."""

    factory: Factory
    name: str
    num_classes: int
    images: int
    """Number of training examples in an epoch."""
    example: tuple[int, ...]
    """Shape of one example."""
    channels_first: bool
    image_key: str
    label_key: str

    def shape(self, size: int) -> tuple[int, ...]:
        """Of one example; ValueError where the phase asks for another size than there is."""
        if size != self.example[0]:
            raise ValueError(
                f"the phase has size={size}, but {self.name!r} gives examples of shape "
                f"{self.example}; write size={self.example[0]}"
            )
        return self.example

    def batches(self, seed: int, epoch: int, *, size: int, batch_size: int) -> Iterator[Batch]:
        """This process' share of the batches of an epoch; examples that fill no batch are left out.

        An example's index is its place in the epoch.
        """
        del seed
        self.shape(size)
        share = batch_size // jax.process_count()
        first = share * jax.process_index()
        wanted = self.images // batch_size
        for number, (x, y) in enumerate(_rebatched(self._parts(epoch), batch_size)):
            if number == wanted:
                return
            mine = slice(first, first + share)
            index = np.arange(number * batch_size, (number + 1) * batch_size, dtype=np.int32)
            # Batches stay on the host.
            yield Batch(*cast(Any, (x[mine], y[mine], index[mine])))

    def _parts(self, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Everything that the epoch shows, in parts of one or several examples."""
        kind = None
        for number, item in enumerate(self.factory(epoch)):
            where = f"item {number + 1} of epoch {epoch + 1} of {self.name!r}"
            given, labels = self._pair(item, where)
            x = _with_rows(_array(given, self.example), self.example, self.channels_first, where)
            y = np.asarray(_plain(labels))
            y = y[None] if y.ndim == 0 else y
            if x.dtype != np.uint8:
                if x.dtype.kind != "f":
                    raise TypeError(f"{where} holds {x.dtype}; give uint8 images or floats")
                x = x.astype(np.float32)
            if x.dtype != (kind := kind or x.dtype):
                raise TypeError(f"{where} holds {x.dtype}, and those before it {kind}; choose one")
            try:
                checks.labels(y, count=len(x), num_classes=self.num_classes)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            yield x, y.astype(np.int32)

    def _pair(self, item: Any, where: str) -> tuple[Any, Any]:
        keys = (self.image_key, self.label_key)
        if isinstance(item, Mapping):
            if missing := [key for key in keys if key not in item]:
                raise ValueError(
                    f"{where} has no {missing[0]!r}, but: {', '.join(map(str, item))}; name its "
                    "entries with image_key and label_key"
                )
            return item[keys[0]], item[keys[1]]
        if isinstance(item, tuple | list) and len(item) == 2:
            return item[0], item[1]
        raise TypeError(
            f"{where} must be a pair (x, y) or a dict with {keys[0]!r} and {keys[1]!r}, got "
            f"{type(item).__name__}"
        )


def stream_of(
    batches: Factory | Iterable[Any],
    *,
    name: str,
    num_classes: int,
    images: int,
    shape: tuple[int, ...],
    channels_first: bool = False,
    image_key: str = "image",
    label_key: str = "label",
) -> Loader:
    """Makes a feed for `training.fit_stream` of a loader of any library, or of a function.

    PyTorch's `DataLoader`, a Hugging Face data set, a grain data set, or a function from the epoch
    to anything that can be iterated over. It gives single examples or batches of any size, each
    as a pair (x, y) or as a dict; x is an array, a PyTorch tensor, a Pillow image or a list of
    those. They are put together to batches of the size that training asks for. With several
    processes each of them reads everything and keeps its share, so that all must give the same.

    Args:
      batches: what gives the examples of an epoch. A function takes the number of the epoch, from
        0; where what it gives depends on that alone, a run that was interrupted resumes as if
        left alone.
      name: what to call the data, in errors and in the run's folder.
      num_classes: the number of classes.
      images: the number of examples in an epoch, such as `len(loader.dataset)`.
      shape: of one example as the model sees it, channels last, such as (32, 32, 3). Its first
        number is the `size` of the phases.
      channels_first: whether the examples have their channels first, as PyTorch's do.
      image_key: the name of the examples in a dict.
      label_key: the name of the labels in a dict, integers from 0.

    Returns:
      The feed. Bytes count as x / 255; floats are taken as they are.

    Raises:
      TypeError: `batches` is an iterator, which is used up after one epoch, or nothing of the kind.
      ValueError: an impossible number. While training, with the place of the item: examples of
        another shape or type, labels out of range.

    Example:
      >>> import numpy as np
      >>> from jaxrobust import data
      >>> def batches(epoch):
      ...     rng = np.random.default_rng(epoch)
      ...     for _ in range(4):
      ...         yield rng.random((25, 8)), rng.integers(0, 3, 25)
      >>> feed = data.stream_of(batches, name="noise", num_classes=3, images=100, shape=(8,))
      >>> [batch.x.shape for batch in feed.batches(0, 0, size=8, batch_size=48)]
      [(48, 8), (48, 8)]
    """
    if isinstance(batches, Iterator) or not (callable(batches) or isinstance(batches, Iterable)):
        raise TypeError(
            "batches must be a loader that can be iterated over in every epoch, or a function of "
            f"the epoch, got {type(batches).__name__}; write lambda epoch: iter(...)"
        )
    checks.at_least("num_classes", num_classes, 2)
    checks.at_least("images", images, 1)
    for side in shape:
        checks.at_least("shape", side, 1)
    factory = _always(batches) if isinstance(batches, Iterable) else batches
    return Loader(
        factory, name, num_classes, images, tuple(shape), channels_first, image_key, label_key
    )


def _always(loader: Iterable[Any]) -> Factory:
    return lambda epoch: loader


def _plain(value: Any) -> Any:
    """A PyTorch tensor, on whatever device, as a NumPy array; anything else as it is."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def _array(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Examples, or one, as an array; images in as many channels as the shape has."""
    if isinstance(value, Image.Image):
        return np.asarray(value.convert("L" if shape[-1] == 1 else "RGB"))
    if isinstance(value, list | tuple):
        return np.stack([_array(part, shape) for part in value])
    return np.asarray(_plain(value))


def _with_rows(
    x: np.ndarray, shape: tuple[int, ...], channels_first: bool, where: str
) -> np.ndarray:
    """The examples `[n, *shape]`, of one example too."""
    found = x.shape
    if channels_first and x.ndim >= 3:
        x = np.moveaxis(x, -3, -1)
    if shape[-1] == 1 and shape[:-1] in (x.shape, x.shape[1:]):
        x = x[..., None]
    if x.shape == shape:
        x = x[None]
    if x.shape[1:] != shape:
        moved = x.ndim >= 3 and np.moveaxis(x, -3, -1).shape[-len(shape) :] == shape
        hint = "; give channels_first=True" if moved and not channels_first else ""
        raise ValueError(
            f"{where} has the shape {list(found)}, but examples are {list(shape)}{hint}"
        )
    return x


def _rebatched(
    parts: Iterable[tuple[np.ndarray, np.ndarray]], size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same examples in the same order, `size` at a time; what is left at the end is dropped."""
    held: list[tuple[np.ndarray, np.ndarray]] = []
    count = 0
    for part in parts:
        held.append(part)
        count += len(part[1])
        if count < size:
            continue
        x, y = (np.concatenate(column) for column in zip(*held, strict=True))
        whole = count // size * size
        for start in range(0, whole, size):
            yield x[start : start + size], y[start : start + size]
        held, count = [(x[whole:], y[whole:])], count - whole
