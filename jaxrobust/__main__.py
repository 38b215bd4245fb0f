"""The console script `jaxrobust`, also as `python -m jaxrobust`: the commands of `experiments`."""

from __future__ import annotations

import importlib
import importlib.util
import sys


def main() -> None:
    """Runs the command that the arguments name.

    The commands are part of the package where it is installed, and of the folder at hand in a
    checkout.
    """
    for package in ("jaxrobust.experiments", "experiments"):
        try:
            found = importlib.util.find_spec(f"{package}.__main__")
        except ModuleNotFoundError:
            continue
        if found is not None:
            importlib.import_module(f"{package}.__main__").main()
            return
    sys.exit("error: the commands are not here; install the package, or call from its checkout")


if __name__ == "__main__":
    main()
