"""All tables under a folder as one, beside the published figures.

    python -m experiments.summary
    python -m experiments.summary --runs runs/dale runs/trades --out summary

Every study writes its table as .json; this script finds them, wherever they lie under --runs, and
prints a line per row: which script, data and preset, the row's name, its figures (mean ± standard
deviation over seeds) and what the paper published; and below what each table was measured on. It
trains nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from jaxrobust.evaluation.report import show
from jaxrobust.files import write_text_atomic

from ..common.cli import command_line
from ..common.tables import cells, markdown_table

COLUMNS = ("setup", "script", "data", "row", "seeds", "measured", "published", "source")


@dataclasses.dataclass(frozen=True)
class Config:
    """Gathers the tables of all studies into one."""

    runs: tuple[Path, ...] = (Path("runs"),)
    """Folders to search."""
    out: Path | None = None
    """Where to write the table, without a suffix: .md and .json."""


def found(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The tables of studies under the folders, in the order of their paths.

    Raises:
      FileNotFoundError: a folder that is not there. ValueError: a table that cannot be read.
    """
    tables = []
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is no folder; run a study first, or name another")
        for path in _candidates(folder):
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{path} is not JSON ({error}); delete it, run again") from error
            if isinstance(content, dict) and {"script", "rows"} <= content.keys():
                tables.append(content)
    return tables


def _candidates(folder: Path) -> list[Path]:
    paths = []
    for place, inner, files in os.walk(folder):
        # The folder of a training run holds reports and checkpoints, and no tables.
        if "config.json" in files:
            inner.clear()
            continue
        paths += [Path(place, name) for name in files if name.endswith(".json")]
    return sorted(paths)


def lines(tables: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """A line per row of every table, by `COLUMNS`; `setup` numbers the tables from 1."""
    made = []
    for number, table in enumerate(tables, 1):
        for row in table["rows"]:
            shown = cells(row)
            name = shown.pop(next(iter(shown)))
            published = {c: v for c, v in shown.items() if c.startswith("published")}
            measured = {c: v for c, v in shown.items() if c not in published and v}
            told = [
                f"{value} ({column.removeprefix('published').strip()})".removesuffix(" ()")
                for column, value in published.items()
                if value
            ]
            made.append(
                {
                    "setup": str(number),
                    "script": table["script"],
                    "data": f"{table['dataset']}, {table['preset']}",
                    "row": name,
                    "seeds": str(row.get("seeds", "")),
                    "measured": ", ".join(f"{c} {v}" for c, v in measured.items()),
                    "published": "; ".join(told),
                    "source": table.get("source", ""),
                }
            )
    return made


def main(config: Config) -> list[dict[str, str]]:
    """Prints the table, writes it where --out says, and returns its lines."""
    tables = found(config.runs)
    rows = lines(tables)
    if not rows:
        raise ValueError(
            f"no table of a study under {' '.join(map(str, config.runs))}; run one first, for "
            "example python -m experiments.dale"
        )
    setups = [f"{number}. {table['title']}" for number, table in enumerate(tables, 1)]
    if config.out is not None:
        table = markdown_table(COLUMNS, [[row[c] for c in COLUMNS] for row in rows])
        text = "\n".join([table, "", *setups, ""])
        write_text_atomic(config.out.with_suffix(".md"), text)
        write_text_atomic(config.out.with_suffix(".json"), json.dumps(rows, indent=1) + "\n")
    shown = Table(box=box.SIMPLE_HEAD)
    for column in COLUMNS:
        shown.add_column(column)
    for row in rows:
        shown.add_row(*(row[column] for column in COLUMNS))
    show(shown)
    Console().print("\n".join(setups), soft_wrap=True, markup=False)
    return rows


if __name__ == "__main__":
    command_line(main, Config, __doc__)
