"""Instances of the verification competition: a network, a property and a time."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import NamedTuple

from jaxrobust import checks

TIMEOUT = 60.0
"""Seconds for an instance that does not tell."""


class Instance(NamedTuple):
    """One question."""

    onnx: Path
    vnnlib: Path
    timeout: float

    @property
    def name(self) -> str:
        """Tells it from others in the name of a file: what both files hold, and the time."""
        parts = [path.name.split(".onnx")[0].split(".vnnlib")[0] for path in self[:2]]
        digest = hashlib.sha256(f"{self.timeout:g}".encode())
        for path in self[:2]:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return "-".join([*parts, digest.hexdigest()[:12]])


def read_instances(file: Path, timeout: float | None) -> list[Instance]:
    """The rows of a .csv: network, property and, where `timeout` does not replace it, seconds.

    Paths are relative to the file. Where one is missing, the same with .gz is taken.

    Raises:
      FileNotFoundError: no such file, or one that it names.
      ValueError: rows of another form; the message names the line.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    found = []
    with file.open(encoding="utf-8", newline="") as text:
        reader = csv.reader(text, skipinitialspace=True)
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            where = f"{file}, line {reader.line_num}"
            if len(row) not in (2, 3):
                raise ValueError(
                    f"{where}: a row is network,property,seconds, got {len(row)} cells"
                )
            try:
                told = float(row[2]) if len(row) == 3 else TIMEOUT
            except ValueError as error:
                raise ValueError(f"{where}: {row[2]!r} are no seconds") from error
            checks.positive(f"{where}: seconds", told)
            paths = [_present(file.parent / cell.strip(), where) for cell in row[:2]]
            found.append(Instance(*paths, told if timeout is None else timeout))
    if not found:
        raise ValueError(f"{file} names no instance")
    return found


def _present(path: Path, where: str) -> Path:
    for known in (path, path.with_name(f"{path.name}.gz")):
        if known.is_file():
            return known
    raise FileNotFoundError(f"{where}: there is no file {path}")
