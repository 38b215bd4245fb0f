"""AutoAttack's standard suite (linf) by the algorithm of the authors' code, written in PyTorch.

PyTorch is imported inside the functions: the benchmark runs without it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from .settings import Settings
from .torch_apgd import apgd_ce, apgd_t
from .torch_fab import fab_t
from .torch_square import square
from .torch_survivors import in_turn, judged
from .twin import Tensor, Twin

PARTS = (apgd_ce, apgd_t, fab_t, square)
"""In the order in which they run."""


def suite(twin: Twin, settings: Settings) -> Callable[[Tensor, Tensor, int], Tensor]:
    """(all images, labels, how many at a time) -> points; every part sees survivors only."""
    attempts = [judged(twin.network, part(twin, settings)) for part in PARTS]
    return lambda x, y, batch: in_turn(twin.network, attempts, x, y, batch=batch)


def compiled(twin: Twin) -> Twin:
    """The twin with its network compiled and launched as a CUDA graph, to save small launches.

    The count of images moves from the layer to the compiled whole: inside, Python's numbers are
    constants, and every new one would compile the network again.
    """
    import torch

    network = copy.deepcopy(twin.network)
    network[0]._forward_pre_hooks.clear()
    fast = torch.compile(network, mode="reduce-overhead")

    def count(_: Any, inputs: tuple[Tensor, ...]) -> None:
        twin.seen[0] += len(inputs[0])

    fast.register_forward_pre_hook(count)
    return twin._replace(network=fast)
