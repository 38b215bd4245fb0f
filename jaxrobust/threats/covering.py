"""One warning for a ball that holds the whole pixel box: its radius is probably in other units."""

from __future__ import annotations

import contextlib
import contextvars
import math
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from jaxrobust import checks
from jaxrobust.threats.l1 import L1
from jaxrobust.threats.l2 import L2
from jaxrobust.threats.linf import Linf
from jaxrobust.threats.union import Union

_MEANT = contextvars.ContextVar("covering balls are meant", default=False)
_TOLD: list[str] = []
"""What was said in this process: nothing, or one warning."""


def warn_of_covering(threats: Iterable[Any], shape: tuple[int, ...]) -> None:
    """Warns, once in a process, of a set in which every image of the pixel box is in reach.

    No model is robust on it, and `Linf(8)` is easily written for `Linf(8 / 255)`. Inputs without a
    box, as of tables, are never covered. Only plain numbers known on the host are looked at.

    Args:
      threats: the sets of an attack.
      shape: of one example.
    """
    if _MEANT.get() or _TOLD:
        return
    for threat in threats:
        for ball in threat.members if isinstance(threat, Union) else (threat,):
            scale = threat.radius if isinstance(threat, Union) else 1.0
            if _covers(ball, scale, shape):
                _TOLD.append(
                    f"the radius {ball.radius} of a {type(ball).__name__} ball covers the whole "
                    f"pixel box [{ball.lower}, {ball.upper}]: radii are in units of the pixels, "
                    "in which 8 of 255 gray levels are 8/255"
                )
                warnings.warn(_TOLD[0], UserWarning, stacklevel=3)
                return


@contextlib.contextmanager
def covering_is_meant() -> Iterator[None]:
    """Without that warning, for checks that search the whole box on purpose."""
    token = _MEANT.set(True)
    try:
        yield
    finally:
        _MEANT.reset(token)


def _covers(ball: Any, scale: Any, shape: tuple[int, ...]) -> bool:
    if not isinstance(ball, Linf | L2 | L1):
        return False
    numbers = (scale, ball.radius, ball.lower, ball.upper)
    if not all(checks.is_concrete(number) and np.ndim(number) == 0 for number in numbers):
        return False
    scale, radius, lower, upper = map(float, numbers)
    size = math.prod(shape)
    sides = 1 if isinstance(ball, Linf) else math.sqrt(size) if isinstance(ball, L2) else size
    room = (upper - lower) * sides
    return 0 < room <= scale * radius and math.isfinite(room)
