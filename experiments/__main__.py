"""The studies and tools by name.

python -m experiments                  lists them
python -m experiments dale --seeds 0   as python -m experiments.dale --seeds 0
jaxrobust dale --seeds 0               the same, where the package is installed
"""

from __future__ import annotations

import ast
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxrobust import checks

PACKAGE = __spec__.parent if __spec__ and __spec__.parent else "experiments"


def commands() -> dict[str, str]:
    """What can be run, each with the first line of its documentation; nothing is imported."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("*/__main__.py")):
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        found[file.parent.name] = text.partition("\n")[0]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command that the first argument names with the others; lists all without any."""
    named = list(sys.argv[1:] if arguments is None else arguments)
    known = commands()
    if not named or named[0] in ("-h", "--help", "help"):
        width = max(map(len, known))
        print("usage: COMMAND [OPTIONS]; COMMAND --help lists its options\n")
        print("\n".join(f"  {name:{width}}  {about}" for name, about in known.items()))
        return
    try:
        checks.choice("command", named[0], known)
    except ValueError as error:
        sys.exit(f"error: {error}")
    before, sys.argv = sys.argv, [sys.argv[0], *named[1:]]
    try:
        runpy.run_module(f"{PACKAGE}.{named[0]}", run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "jaxrobust", "experiments") or os.environ.get("JAXROBUST_TRACEBACK"):
            raise
        mend = 'pip install "jaxrobust[experiments]"'
        print(f"error: the commands need the package {missing}: {mend}", file=sys.stderr)
        sys.exit(2)
    finally:
        sys.argv = before


if __name__ == "__main__":
    main()
