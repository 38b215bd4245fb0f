"""Ending long work between two calls of a compiled program when a signal asks for it."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils

Check = Callable[[], None]
"""Raises SystemExit where a signal has come."""

_DEFAULTS = {
    signal.SIGINT: (signal.default_int_handler, signal.SIG_DFL),
    # None: set by compiled code, such as JAX's own notice of preemptions.
    signal.SIGTERM: (signal.SIG_DFL, None),
}


class _Asked:
    """A handler that remembers the first signal; the second acts as it did before."""

    def __init__(self) -> None:
        self.signal = 0
        self.before: dict[int, Callable | int | None] = {}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.restore()

    def install(self) -> None:
        """Takes the place of the defaults; a program's own handlers, and what it ignores, stay."""
        for number, defaults in _DEFAULTS.items():
            if signal.getsignal(number) in defaults:
                self.before[number] = signal.signal(number, self)

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self.before = {}


@contextlib.contextmanager
def stoppable(safe: Callable[[], str], *, together: bool = True) -> Iterator[Check]:
    """Within the block SIGINT and SIGTERM take effect at the next `check()`, which the block gets.

    It raises SystemExit with the usual status, 130 or 143, and the end of the outermost block
    prints one line, `stopped by SIGTERM: ...`. A second signal takes effect at once. Of JAX
    processes that work as one, all stop at the same check. Outside of the main thread signals are
    not seen, and a program's own handlers are left alone.

    Args:
      safe: tells what of the work is saved.
      together: whether all JAX processes enter the block and call `check` equally often.
    """
    handler = signal.getsignal(signal.SIGTERM)
    outermost = not isinstance(handler, _Asked)
    asked = handler if isinstance(handler, _Asked) else _Asked()

    def check() -> None:
        if not outermost and not together and jax.process_count() > 1:
            # The block around this one asks all processes.
            return
        number = asked.signal
        if together and jax.process_count() > 1:
            number = int(np.max(multihost_utils.process_allgather(np.int32(number))))
        if number:
            asked.signal = number
            raise SystemExit(128 + number)

    if outermost and threading.current_thread() is threading.main_thread():
        asked.install()
    try:
        yield check
        check()
    except SystemExit:
        if outermost and asked.signal and jax.process_index() == 0:
            name = signal.Signals(asked.signal).name
            print(f"stopped by {name}: {safe()}", file=sys.stderr, flush=True)
        raise
    finally:
        if outermost:
            asked.restore()
