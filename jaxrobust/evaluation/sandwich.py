"""Certified, attacked and clean accuracy side by side, each example checked against the order."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxrobust.evaluation.certified import CertifiedReport
from jaxrobust.evaluation.report import (
    Metadata,
    Report,
    accuracy,
    heading,
    markdown,
    named,
    per_example,
    rich_table,
    scores,
    show,
    standard_error,
)
from jaxrobust.files import PathLike, write_text_atomic

COLUMNS = ("Examples that are", "Share (%)", "Std. error")
SHOWN = 10
"""Indices that an error names."""


class SandwichError(ValueError):
    """An example was certified and yet misclassified or broken: one of the claims is false."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sandwich:
    """Robust accuracy between its bounds; bool arrays `[N]`, each a subset of the one before."""

    clean: np.ndarray
    """Classified correctly."""
    attacked: np.ndarray
    """Correct, and broken by none of the attacks."""
    certified: np.ndarray
    """Correct, and proved to be so in the whole set."""
    kind: str
    """Kind of the certificates: "deterministic", "probabilistic" or "estimate" (none certified)."""
    metadata: Metadata

    @property
    def undecided(self) -> np.ndarray:
        """bool `[N]`: neither broken nor certified."""
        return self.attacked & ~self.certified

    def table(self) -> Table:
        """The figures as a Rich table."""
        return rich_table(heading(len(self.clean), self.metadata), COLUMNS, self._rows())

    def print(self, console: Console | None = None) -> None:
        """Shows `table()` on the terminal."""
        show(self.table(), console)

    def to_markdown(self) -> str:
        """The figures as a Markdown table under a line that says what was evaluated."""
        return markdown(heading(len(self.clean), self.metadata), COLUMNS, self._rows())

    def to_csv(self) -> str:
        """One line per example: its index, and whether it is clean, attacked and certified."""
        return per_example(self._masks())

    def save(self, stem: PathLike) -> None:
        """Writes `stem`.json (figures), .csv (per example) and .md, each atomically.

        Raises:
          OSError: a file cannot be written; the message names it.
        """
        figures = {
            name: {"accuracy": accuracy(mask), "standard_error": standard_error(mask)}
            for name, mask in self._masks().items()
        }
        content = {"metadata": dict(self.metadata), "count": len(self.clean), "kind": self.kind}
        text = json.dumps({**content, **figures}, default=str, indent=2) + "\n"
        write_text_atomic(named(stem, ".json"), text)
        write_text_atomic(named(stem, ".csv"), self.to_csv())
        write_text_atomic(named(stem, ".md"), self.to_markdown())

    def _masks(self) -> dict[str, np.ndarray]:
        return {"clean": self.clean, "attacked": self.attacked, "certified": self.certified}

    def _rows(self) -> list[list[str]]:
        return [
            scores("correct", self.clean),
            scores("unbroken by attacks", self.attacked),
            scores(f"certified ({self.kind})", self.certified),
            scores("undecided", self.undecided),
        ]


def sandwich(report: Report, certified: CertifiedReport) -> Sandwich:
    """Puts the certified accuracy below the attacked one, after checking every example.

    Certified <= attacked <= clean must hold example by example: of the same model and examples,
    and attacks whose sets lie in the certified one. A violation refutes the certificate, the
    attack's claim that its point lies in the set, or that the sets match, and is never averaged
    away. A "probabilistic" certificate may fail with the probability that it states.

    Args:
      report: what `evaluate` returned. Without attacks, the upper bound is the clean accuracy.
      certified: what `certified` returned.

    Returns:
      A `Sandwich`: `clean`, `attacked` and `certified`, bool `[N]` each, tell which examples are
      classified correctly, unbroken by every attack too, and certified. With them come the kind of
      the certificates and the metadata of both reports; where they share a name, that of
      `certified` stays.

    Raises:
      SandwichError: an example is certified though misclassified, or though an attack broke it; the
        message names the attack, the first that did so, and the examples.
      ValueError: the two reports are not of as many examples, or differ in what is classified
        correctly, so that they are not of one model and data set.
    """
    if report.count != certified.count:
        raise ValueError(
            f"the attacks saw {report.count} examples, the certificates {certified.count}; "
            "evaluate both on the same examples"
        )
    broken = list(_contradictions(report, certified))
    if broken:
        count = sum(rows.size for _, rows in broken)
        seen = "; ".join(f"{_shown(rows)} {what}" for what, rows in broken)
        raise SandwichError(
            f"{count} certified examples are not robust: {seen}. "
            "Either a bound is unsound or the attacks' sets do not lie in the certified set"
        )
    other = np.flatnonzero(report.clean != certified.clean)
    if other.size:
        raise ValueError(
            f"the reports differ in which examples are classified correctly ({_shown(other)}); "
            "evaluate both on the same model and examples"
        )
    return Sandwich(
        clean=report.clean,
        attacked=report.worst_case,
        certified=certified.robust,
        kind=certified.kind,
        metadata={**report.metadata, **certified.metadata},
    )


def _contradictions(report: Report, certified: CertifiedReport) -> Iterator[tuple[str, np.ndarray]]:
    """What contradicts the certificates, and for which examples; each example counts once."""
    wrong = certified.certified & ~(report.clean & certified.clean)
    if wrong.any():
        yield "misclassified", np.flatnonzero(wrong)
    standing = certified.robust & report.clean
    for name, attack in report.attacks.items():
        fell = standing & ~attack.robust
        if fell.any():
            yield f"broken by {name!r}", np.flatnonzero(fell)
        standing = standing & attack.robust


def _shown(rows: np.ndarray) -> str:
    more = f" and {rows.size - SHOWN} more" if rows.size > SHOWN else ""
    return ", ".join(map(str, rows[:SHOWN].tolist())) + more
