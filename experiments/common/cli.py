"""The command line of every study."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import tyro

from jaxrobust import training

from .kept_programs import keep_programs

MISTAKES = (ValueError, OSError, FloatingPointError, ModuleNotFoundError, training.CheckpointError)
"""What a user can mend, and the message says how."""


def command_line(
    main: Callable[[Any], Any], config: type, description: str | None, *, kept: bool = True
) -> None:
    """Runs `main` on the options of the command line; a user's mistake ends in one line, status 2.

    So does Ctrl-C, status 130; training and evaluation see it, and SIGTERM, by themselves.
    `JAXROBUST_TRACEBACK=1` shows where it was raised. The programs that it compiles are `kept` for
    the next command (`keep_programs`); not by one that times compiling.
    """
    # The package's name, as it is called, and not the place of its file.
    study = getattr(sys.modules["__main__"], "__package__", None) or ""
    name = study.rpartition(".")[2]
    prog = f"jaxrobust {name}" if study.startswith("jaxrobust.") else f"python -m {study}"
    options, unknown = tyro.cli(
        config, prog=prog if name else None, description=description, return_unknown_args=True
    )
    if unknown:
        print(f"error: {_unknown(unknown[0], config)}", file=sys.stderr)
        sys.exit(2)
    if kept:
        keep_programs()
    try:
        main(options)
    except MISTAKES as error:
        if os.environ.get("JAXROBUST_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped by SIGINT: what had ended is saved, and the same command goes on from there",
              file=sys.stderr)  # fmt: skip
        sys.exit(130)


def _unknown(given: str, config: type) -> str:
    """What is wrong with an argument that no option takes, and the option it may stand for."""
    if not given.startswith("-"):
        return f"{given!r} belongs to no option; --help lists them"
    wanted = given.partition("=")[0]
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        tyro.cli(config, args=["--help"])
    known = dict.fromkeys(re.findall(r"^\W*(--[\w-]+)", told.getvalue(), re.M))
    starts = [name for name in known if wanted.startswith(name) or name.startswith(wanted)]
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.7) or starts
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"no option {wanted}{hint} --help lists them all"
