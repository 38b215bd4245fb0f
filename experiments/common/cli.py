"""The command line of every study."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import tyro

from jaxrobust import training


def command_line(main: Callable[[Any], Any], config: type, description: str | None) -> None:
    """Runs `main` on the options of the command line; a user's mistake ends in one line, status 2.

    So does Ctrl-C, status 130; training and evaluation see it, and SIGTERM, by themselves.
    `JAXROBUST_TRACEBACK=1` shows where it was raised.
    """
    # The package's name, as it is called, and not the place of its file.
    study = getattr(sys.modules["__main__"], "__package__", None)
    prog = f"python -m {study}" if study else None
    options = tyro.cli(config, prog=prog, description=description)
    try:
        main(options)
    except (ValueError, OSError, FloatingPointError, training.CheckpointError) as error:
        if os.environ.get("JAXROBUST_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped by SIGINT: what had ended is saved, and the same command goes on from there",
              file=sys.stderr)  # fmt: skip
        sys.exit(130)
