"""Writing a file whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")
"""Names of files that are not yet whole."""

PathLike = str | os.PathLike[str]


def write_bytes_atomic(path: PathLike, data: bytes) -> Path:
    """Writes `data` to `path`, which at every moment holds the old or the new content, complete.

    Writes a neighboring temporary file and renames it over `path`; missing folders are made.
    Returns the path.

    Raises:
      OSError: the folder cannot be written or the disk is full; the message names `path`. The old
        file is untouched and no temporary file stays behind.
    """
    path = Path(path)
    # Not `tempfile`: its files are readable by their owner alone, also after the rename.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        message = f"could not write {path} ({error.strerror or error}); the old file, if any, stays"
        raise OSError(error.errno or 0, message) from error
    finally:
        _remove(temporary)
    return path


def sweep(folder: PathLike) -> None:
    """Removes the temporary files that killed writers left in `folder`; no other may write now."""
    for left in Path(folder).glob(".*.tmp"):
        if TEMPORARY.fullmatch(left.name):
            _remove(left)


def write_text_atomic(path: PathLike, text: str) -> Path:
    """`write_bytes_atomic` of `text` in UTF-8."""
    return write_bytes_atomic(path, text.encode())


def write_jsonl(path: PathLike, rows: Sequence[Mapping[str, Any]]) -> Path:
    """`write_text_atomic` of one JSON object per line."""
    return write_text_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_csv(path: PathLike, rows: Sequence[Mapping[str, Any]]) -> Path:
    """`write_text_atomic` of a header of every column that any row has, then the rows."""
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_text_atomic(path, text.getvalue())


def _remove(temporary: Path) -> None:
    # On a folder that cannot be reached the first error is the one to report.
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        return
