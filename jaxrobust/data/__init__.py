"""Data sets in memory, and the index arithmetic that makes batches of them."""

from jaxrobust.data.batches import padded_batches, permutation, process_slice, shard, to_float
from jaxrobust.data.dataset import assemble, load
from jaxrobust.data.synthetic import synthetic
from jaxrobust.data.types import Dataset, Source, Split

__all__ = [
    "Dataset",
    "Source",
    "Split",
    "assemble",
    "load",
    "padded_batches",
    "permutation",
    "process_slice",
    "shard",
    "synthetic",
    "to_float",
]
