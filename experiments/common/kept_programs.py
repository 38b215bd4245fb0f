"""Compiled programs that outlive a command: JAX's persistent compilation cache."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import jax
import jaxlib.version

LIMIT = 2**29
"""Bytes above which the folder loses the programs that were not used for the longest time."""

ALARMED = (0, 9), (0, 10, 2)
"""Versions of jaxlib from the first to before the second call every program that they load on a
processor with AVX-512 a danger, in two lines of 2 kB each, as they take hints of tuning for
instructions (github.com/jax-ml/jax/issues/38445)."""


def keep_programs() -> None:
    """Has JAX keep the programs it compiles from here on in `cache_folder()`.

    Those that took a second or more, by JAX's default. Several commands may share the folder, and
    several machines: JAX's key to a program holds the versions, the flags and the processor. What
    the user has set in JAX stays: another folder, or `JAX_ENABLE_COMPILATION_CACHE=0` for none.
    Where the folder cannot be written, a line on stderr says so, and nothing is kept.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    if not jax.config.jax_enable_compilation_cache:
        return
    if ALARMED[0] <= jaxlib.version.__version_info__ < ALARMED[1]:
        return
    try:
        folder = cache_folder()
        # Programs from it are run: nobody else is to write there.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        drop_old(folder, LIMIT)
    except (OSError, RuntimeError) as error:
        print(f"compiled programs are not kept for the next time: {error}; "
              "JAX_COMPILATION_CACHE_DIR names another folder", file=sys.stderr)  # fmt: skip
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def cache_folder() -> Path:
    """`jaxrobust/xla` in the user's cache folder, as XDG, macOS and Windows have it.

    Raises:
      RuntimeError: the user has no home folder.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):  # XDG ignores other ones
        base = Path(named)
    elif sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        base = Path(os.environ["LOCALAPPDATA"])
    elif sys.platform == "darwin":
        base = Path("~/Library/Caches").expanduser()
    else:
        base = Path("~/.cache").expanduser()
    return base / "jaxrobust" / "xla"


def drop_old(folder: Path, limit: int) -> None:
    """Removes files from `folder`, those first that were not used for long, down to `limit` bytes.

    Not JAX's own limit: that needs another package (filelock), and up to 0.10 a command killed
    while it writes ends the writing of all later ones.
    """
    files = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another command removed it
            if path.is_file():
                known = path.stat()
                # Some file systems do not note reading.
                files.append((max(known.st_atime, known.st_mtime), known.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            return
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size
