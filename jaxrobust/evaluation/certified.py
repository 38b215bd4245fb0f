"""Certified accuracy of a classifier over a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import losses
from jaxrobust.devices import Device
from jaxrobust.duals.certificates import Certificate, certify
from jaxrobust.duals.relaxed_network import METHODS
from jaxrobust.evaluation.batched_pass import Examples, clean_pass, in_turn, prepare, progress_bars
from jaxrobust.evaluation.report import Metadata, Timing, accuracy, standard_error
from jaxrobust.evaluation.resume import guarded, journaled_pass, open_journal
from jaxrobust.files import PathLike
from jaxrobust.models import ModelLike
from jaxrobust.types import (
    Array,
    Attack,
    AttackResult,
    Key,
    LogitsFn,
    PyTree,
    ThreatModel,
    static,
)

Certifier = Callable[..., Certificate]
"""`(key, f, x, y, threat, **options)` -> the certificate of one example."""


@dataclasses.dataclass(frozen=True, eq=False)
class CertifiedReport:
    """What was proved of every example; arrays are in the order of the data."""

    clean: np.ndarray
    """bool `[N]`: classified correctly (label's logit strictly largest)."""
    certified: np.ndarray
    """bool `[N]`: the label is certified over the set; where that is sound, `clean` is True."""
    lower: np.ndarray
    """`[N, K]`: lower bounds of f_y - f_j over the set, 0 at the label; NaN is no bound."""
    margin: np.ndarray
    """float64 `[N]`: upper bound of `AttackReport.margin` for every attack in the set."""
    delta: np.ndarray
    """float64 `[N]`: probability that an example's bounds fail; NaN for estimates."""
    timing: Timing
    """Timing of the certificates alone."""
    metadata: Metadata

    @property
    def count(self) -> int:
        """Number of examples N."""
        return len(self.clean)

    @property
    def robust(self) -> np.ndarray:
        """bool `[N]`: correct and certified."""
        return self.clean & self.certified

    @property
    def accuracy(self) -> float:
        """Certified accuracy in %: at most the robust accuracy against any attack."""
        return accuracy(self.robust)

    @property
    def standard_error(self) -> float:
        """Binomial standard error of `accuracy`, in percentage points."""
        return standard_error(self.robust)

    @property
    def kind(self) -> str:
        """The weakest kind of statement among the examples': see `duals.Certificate`."""
        if np.isnan(self.delta).any():
            return "estimate"
        return "probabilistic" if (self.delta > 0).any() else "deterministic"


def deterministic(
    key: Key,
    f: LogitsFn,
    x: Array,
    y: Array,
    threat: ThreatModel,
    *,
    methods: Sequence[str] = METHODS,
    boxed: bool = False,
    chunk: int | None = None,
    bucket: int | None = None,
) -> Certificate:
    """`duals.certify` in the form of a `Certifier`; `key` is not used."""
    del key
    return certify(f, x, y, threat, methods=methods, boxed=boxed, chunk=chunk, bucket=bucket)


def certified(
    model: ModelLike,
    variables: PyTree,
    examples: Examples,
    threat: ThreatModel,
    *,
    batch_size: int,
    certifier: Certifier = deterministic,
    key: Key | None = None,
    devices: Sequence[Device] | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    metadata: Metadata | None = None,
    folder: PathLike | None = None,
    options: Mapping[str, Any] | None = None,
) -> CertifiedReport:
    """Certifies the label of every example over the set around it; counts exactly.

    An example counts when it is classified correctly and certified; NaN never does. The share of
    those examples bounds the robust accuracy against every attack from below, where `evaluate`
    bounds it from above; `sandwich` puts both side by side. One program is compiled per model and
    setting and reused over batches and calls; another radius or other weights do not recompile.

    Args:
      threat: the set around every example. Its numbers are traced.
      certifier: makes the certificates; a function of a module. `duals.certify` by default.
      key: for a certifier that draws random numbers (default key 0). An example's randomness
        comes from it and the example's index.
      options: static settings of the certifier by name; of `duals.certify`, `methods`, `boxed`,
        `chunk` and `bucket`, such as `{"methods": ("wong_kolter",)}`.
      model, variables, examples, batch_size, devices, progress, num_classes, metadata, folder: see
        `evaluate`. A folder is for certificates alone, not for attacks too.

    Returns:
      A `CertifiedReport`, whose arrays are in the order of the data: `clean` and `certified`, bool
      `[N]`; `lower`, lower bounds `[N, K]` of the label's logit minus each other one, 0 at the
      label; `margin`, float64 `[N]`, upper bounds of the margins that attacks reach; and `delta`,
      float64 `[N]`, the probability that an example's bounds fail, NaN for estimates. Its
      `accuracy` is the certified accuracy in %.

    Raises:
      ValueError: what `evaluate` raises, or the certifier (a set or a network without bounds).
      OSError: the folder cannot be written.
    """
    settings: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in (options or {}).items()
    }
    bound = Certificates(
        threat=threat, certifier=certifier, options=tuple(sorted(settings.items()))
    )
    job = prepare(
        model,
        variables,
        examples,
        batch_size=batch_size,
        devices=devices,
        num_classes=num_classes,
        attacks=[bound],
    )
    key = jax.random.key(0) if key is None else key
    with guarded(folder, job) as check, progress_bars(progress, len(job.rows)) as bar:
        named = {NAME: (key, bound)}
        journal = None if folder is None else open_journal(folder, job, named, metadata)
        clean, _ = clean_pass(job, in_turn(bar("clean"), check))
        result, timing = journaled_pass(
            journal, NAME, job, key, bound, keep_examples=True, tick=bar(NAME), check=check
        )
    assert result.x is not None  # its bounds, kept by `keep_examples`
    return CertifiedReport(
        clean=clean,
        certified=~result.success,
        lower=result.x,
        margin=result.margin.astype(np.float64),
        delta=result.norm.astype(np.float64),
        timing=timing,
        metadata=dict(metadata or {}),
    )


NAME = "certificate"


class Certificates(Attack):
    """A certificate in the fields of an attack's result, which the passes and the journal keep.

    It bounds what they hold for every attack in the set: none succeeds where `success` is False,
    and none has a larger margin or cross-entropy. `x` carries the bounds and `norm` their delta.
    """

    threat: ThreatModel
    certifier: Certifier = static()
    options: tuple[tuple[str, Any], ...] = static()

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        found = self.certifier(key, f, x, y, self.threat, **dict(self.options))
        return AttackResult(
            x=found.lower,
            success=~found.certified,
            inside=jnp.ones((), bool),
            loss=losses.cross_entropy(found.robust_logits, y),
            margin=losses.margin(found.robust_logits, y),
            norm=found.delta,
            forwards=jnp.zeros((), jnp.int32),
            backwards=jnp.zeros((), jnp.int32),
        )
