"""What an evaluation found, per example and in sum."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxrobust import archive
from jaxrobust.files import PathLike, write_bytes_atomic, write_text_atomic
from jaxrobust.fingerprint import fingerprint

Metadata = Mapping[str, str | int | float]

COLUMNS = (
    "Attack",
    "Accuracy (%)",
    "Std. error",
    "Mean norm",
    "Forwards",
    "Backwards",
    "First batch (s)",
    "Other batches (s)",
)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds spent on the first batch, which includes compiling, and on all the others."""

    first: float
    rest: float
    batches: int

    @property
    def steady(self) -> float:
        """Seconds per batch once compiled; NaN when there was one batch only."""
        return self.rest / (self.batches - 1) if self.batches > 1 else float("nan")


def accuracy(mask: np.ndarray) -> float:
    """Percentage of True.

    Args:
      mask: bool, of any shape and not empty.

    Returns:
      The percentage, from 0 to 100.
    """
    return 100.0 * float(np.mean(mask))


def standard_error(mask: np.ndarray) -> float:
    """Binomial standard error of `accuracy(mask)`: sqrt(p (1 - p) / N), p being the share of True.

    Args:
      mask: bool, of any shape and not empty; N is the number of its entries.

    Returns:
      The standard error in percentage points.
    """
    p = float(np.mean(mask))
    return 100.0 * float(np.sqrt(p * (1.0 - p) / mask.size))


@dataclasses.dataclass(frozen=True, eq=False)
class AttackReport:
    """One attack on every example; arrays are `[N]` in the order of the data."""

    robust: np.ndarray
    """bool: classified correctly, and still so after the attack."""
    inside: np.ndarray
    """bool: the attack's point lay in its threat set; one that did not never counts as success."""
    norm: np.ndarray
    """float64: distance moved, in the units of the threat's radius."""
    margin: np.ndarray
    """float64: largest wrong logit minus the label's, at the attack's point."""
    forwards: float
    """Forward passes per example, on average."""
    backwards: float
    """Backward passes per example, on average."""
    timing: Timing
    examples: np.ndarray | None = None
    """The points found, `[N, ...]`, where they were kept; saved on demand alone."""
    gradients: np.ndarray | None = None
    """int `[N]`: backward passes of each example; never saved."""

    @property
    def accuracy(self) -> float:
        """Robust accuracy in %."""
        return accuracy(self.robust)


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """Clean accuracy and every attack's robust accuracy, example by example."""

    clean: np.ndarray
    """bool `[N]`: classified correctly (label's logit strictly largest)."""
    clean_timing: Timing
    attacks: Mapping[str, AttackReport]
    metadata: Metadata

    @property
    def count(self) -> int:
        """Number of examples N."""
        return len(self.clean)

    @property
    def worst_case(self) -> np.ndarray:
        """bool `[N]`: correct and robust under every attack."""
        return np.logical_and.reduce([self.clean, *(a.robust for a in self.attacks.values())])

    @property
    def clean_accuracy(self) -> float:
        """In %."""
        return accuracy(self.clean)

    @property
    def worst_case_accuracy(self) -> float:
        """In %: at most every attack's robust accuracy."""
        return accuracy(self.worst_case)

    def mean_norm(self, name: str) -> float:
        """Mean norm of the perturbations that turned a right prediction wrong; NaN if none did."""
        attack = self.attacks[name]
        norms = attack.norm[self.clean & ~attack.robust]
        # NaN stands for examples that an attack before had broken and this one never saw.
        norms = norms[np.isfinite(norms)]
        return float(norms.mean()) if norms.size else float("nan")

    def table(self) -> Table:
        """The figures as a Rich table."""
        return rich_table(self._title(), COLUMNS, self._rows())

    def print(self, console: Console | None = None) -> None:
        """Shows `table()` on the terminal."""
        show(self.table(), console)

    def to_markdown(self) -> str:
        """The figures as a Markdown table under a line that says what was evaluated."""
        return markdown(self._title(), COLUMNS, self._rows())

    def to_csv(self) -> str:
        """One line per example: its index, and per attack whether it is robust, norm and margin."""
        columns = {"clean": self.clean, "worst_case": self.worst_case}
        for name, attack in self.attacks.items():
            columns |= {f"{name}:robust": attack.robust}
            columns |= {f"{name}:norm": attack.norm, f"{name}:margin": attack.margin}
        return per_example(columns)

    def save(self, stem: PathLike, *, examples: bool = False) -> None:
        """Writes `stem`.json (everything but kept examples), .csv (per example) and .md (figures).

        Each file is written atomically and its folder made; with several processes, call it on
        one of them. Metadata that JSON does not know is saved as text.

        Args:
          stem: the path of the files, without their suffix.
          examples: write `stem`.npz too: the adversarial examples `[N, ...]` of every attack, by
            its name.

        Raises:
          ValueError: `examples` of an evaluation that kept none.
          OSError: a file cannot be written; the message names it.
        """
        points = {name: attack.examples for name, attack in self.attacks.items()}
        kept = {name: found for name, found in points.items() if found is not None}
        if examples and (not kept or len(kept) < len(points)):
            raise ValueError(
                "this report holds no adversarial examples of "
                f"{', '.join(n for n in points if n not in kept) or 'any attack'}: evaluate with "
                "keep_examples=True"
            )
        content = {
            "metadata": dict(self.metadata),
            "clean": self.clean.astype(int).tolist(),
            "clean_timing": dataclasses.asdict(self.clean_timing),
            "attacks": {name: _to_json(attack) for name, attack in self.attacks.items()},
        }
        if examples:
            content["examples"] = fingerprint(kept)
            write_bytes_atomic(named(stem, ".npz"), archive.packed(kept))
        write_text_atomic(named(stem, ".json"), json.dumps(content, default=str) + "\n")
        write_text_atomic(named(stem, ".csv"), self.to_csv())
        write_text_atomic(named(stem, ".md"), self.to_markdown())

    @staticmethod
    def load(stem: PathLike) -> Report:
        """Reads back what `save(stem)` wrote, bit for bit; adversarial examples too, if saved.

        Raises:
          FileNotFoundError: there is no `stem`.json, or no `stem`.npz that was saved with it.
          ValueError: a file is not what was saved.
        """
        path = named(stem, ".json")
        text = path.read_text(encoding="utf-8")
        try:
            content = json.loads(text)
            report = Report(
                clean=np.asarray(content["clean"], bool),
                clean_timing=Timing(**content["clean_timing"]),
                attacks={name: _from_json(a) for name, a in content["attacks"].items()},
                metadata=content["metadata"],
            )
            told = content.get("examples")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is not a saved report: {error!r}") from error
        return report if told is None else _with_examples(report, named(stem, ".npz"), told)

    def _title(self) -> str:
        return heading(self.count, self.metadata)

    def _rows(self) -> list[list[str]]:
        rows = [_row("clean", self.clean, float("nan"), 1.0, 0.0, self.clean_timing)]
        for name, a in self.attacks.items():
            norm = self.mean_norm(name)
            rows.append(_row(name, a.robust, norm, a.forwards, a.backwards, a.timing))
            if not a.inside.all():
                rows[-1][0] += f" ({int((~a.inside).sum())} points outside the set, not counted)"
        if len(self.attacks) > 1:
            rows.append([*scores("worst case", self.worst_case), *[""] * (len(COLUMNS) - 3)])
        return rows


def heading(count: int, metadata: Metadata) -> str:
    """The line over a table: how many examples, and what is known of them."""
    about = "; ".join(f"{name}: {value}" for name, value in metadata.items())
    return f"{count} examples" + (f"; {about}" if about else "")


def show(table: Table, console: Console | None = None) -> None:
    """Prints a table to `console`, or as wide as it needs to be where none is given."""
    if console is None:
        console = Console()
        most = console.options.update(max_width=1000)
        console.width = max(console.width, console.measure(table, options=most).maximum)
    console.print(table)


def rich_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of names and figures for the terminal."""
    table = Table(title=escape(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        # At 80 columns headings fold between words, and names stay readable.
        width = max(len(word) for word in column.split()) if i else 12
        table.add_column(column, justify="right" if i else "left", min_width=width)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def markdown(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same as Markdown, under its title."""
    rows = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    lines = ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows]
    return "\n".join([title, "", *lines, ""])


def per_example(columns: Mapping[str, np.ndarray]) -> str:
    """CSV of arrays `[N]`, a line per example under its index; bools as 0 and 1."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    values = [a.astype(int) if a.dtype == bool else a for a in columns.values()]
    writer.writerow(["index", *columns])
    writer.writerows(
        (i, *row) for i, row in enumerate(zip(*(a.tolist() for a in values), strict=True))
    )
    return text.getvalue()


def scores(name: str, mask: np.ndarray) -> list[str]:
    """The first three cells of a row: name, accuracy and standard error."""
    return [name, f"{accuracy(mask):.2f}", f"{standard_error(mask):.2f}"]


def _row(
    name: str, mask: np.ndarray, norm: float, forwards: float, backwards: float, timing: Timing
) -> list[str]:
    return [
        *scores(name, mask),
        "" if np.isnan(norm) else f"{norm:.4g}",
        f"{forwards:.1f}",
        f"{backwards:.1f}",
        f"{timing.first:.2f}",
        f"{timing.rest:.2f}",
    ]


def named(stem: PathLike, suffix: str) -> Path:
    """The file of this stem and suffix."""
    # Not `with_suffix`: a stem such as "eps_0.3" has a dot that is not a suffix's.
    path = Path(stem)
    return path.with_name(path.name + suffix)


def _with_examples(report: Report, path: Path, told: str) -> Report:
    """The report with the adversarial examples at `path`, whose fingerprint it tells."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}, which the report was saved with, is not there")
    found = archive.read(path, archive.declared(path))
    if fingerprint(found) != told:
        raise ValueError(f"{path} does not hold the adversarial examples saved with the report")
    attacks = {
        name: dataclasses.replace(attack, examples=found[name])
        for name, attack in report.attacks.items()
    }
    return dataclasses.replace(report, attacks=attacks)


_MASKS = ("robust", "inside")
_NUMBERS = ("norm", "margin")


def _to_json(attack: AttackReport) -> dict[str, Any]:
    fields = {f.name: getattr(attack, f.name) for f in dataclasses.fields(attack)}
    for name in ("examples", "gradients"):
        del fields[name]
    for name in _MASKS:
        fields[name] = fields[name].astype(int).tolist()
    for name in _NUMBERS:
        # JSON has no NaN and no infinity; as text they read back.
        fields[name] = [v if np.isfinite(v) else str(v) for v in fields[name].tolist()]
    return {**fields, "timing": dataclasses.asdict(attack.timing)}


def _from_json(fields: Mapping[str, Any]) -> AttackReport:
    masks = {name: np.asarray(fields[name], bool) for name in _MASKS}
    numbers = {name: np.asarray(fields[name], np.float64) for name in _NUMBERS}
    timing = Timing(**fields["timing"])
    return AttackReport(**{**fields, **masks, **numbers, "timing": timing})
