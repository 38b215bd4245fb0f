"""Data sets, in memory or streamed, and the index arithmetic that makes batches of them."""

from jaxrobust.data.arrays import from_arrays, from_npz
from jaxrobust.data.batches import (
    batches_per_epoch,
    epoch_batches,
    padded_batches,
    permutation,
    process_slice,
    semi_supervised_batches,
    shard,
    to_float,
    to_inputs,
)
from jaxrobust.data.dataset import assemble, load, pseudo_labeled
from jaxrobust.data.folder import from_folder
from jaxrobust.data.har import from_har
from jaxrobust.data.loaders import Loader, stream_of
from jaxrobust.data.stream import Records, Stream, open_stream
from jaxrobust.data.synthetic import synthetic
from jaxrobust.data.types import Dataset, Source, Split

__all__ = [
    "Dataset",
    "Loader",
    "Records",
    "Source",
    "Split",
    "Stream",
    "assemble",
    "batches_per_epoch",
    "epoch_batches",
    "from_arrays",
    "from_folder",
    "from_har",
    "from_npz",
    "load",
    "open_stream",
    "padded_batches",
    "permutation",
    "process_slice",
    "pseudo_labeled",
    "semi_supervised_batches",
    "shard",
    "stream_of",
    "synthetic",
    "to_float",
    "to_inputs",
]
