"""What verification is asked: properties of a network's outputs."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.pytree import pytree
from jaxrobust.types import Array


@pytree
@dataclasses.dataclass(frozen=True)
class Property:
    """Outputs `v` at which every clause has a row with (A v + b) > 0.

    By default each row is a clause of its own, and all of them must be positive: a conjunction.
    Its violation is a disjunction of conjunctions, as VNN-LIB writes it: clause k is violated where
    A v + b <= 0 in all rows of the clause. A tie is a violation.

    Args:
      A: `[rows, K]` for K outputs.
      b: `[rows]`, in units of the outputs.
      clauses: `[rows]`, the clause of each row, whole numbers from 0 without a gap; by default
        0, 1, 2, ...

    Raises:
      ValueError: wrong shapes, numbers that are not finite, or clauses that are none.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxrobust import duals
      >>> first = duals.Property(jnp.array([[1.0, -1.0]]), jnp.zeros(1))
      >>> float(first.value(jnp.array([3.0, 1.0])))
      2.0
    """

    A: Array
    b: Array
    clauses: Array | None = None

    def __post_init__(self) -> None:
        if self.clauses is None and hasattr(self.b, "shape") and len(np.shape(self.b)) == 1:
            object.__setattr__(self, "clauses", np.arange(len(self.b), dtype=np.int32))
        if not all(map(checks.is_concrete, (self.A, self.b, self.clauses))):
            return
        A, b, clauses = map(np.asarray, (self.A, self.b, self.clauses))
        if A.ndim != 2 or not len(A) or b.shape != A.shape[:1] or clauses.shape != b.shape:
            raise ValueError(
                "a property needs A [rows, K], b [rows] and clauses [rows] for at least one row, "
                f"got shapes {A.shape}, {b.shape} and {clauses.shape}"
            )
        if not (np.isfinite(A).all() and np.isfinite(b).all()):
            raise ValueError("A and b of a property must be finite")
        known = np.unique(clauses)
        if known.dtype.kind not in "iu" or not np.array_equal(known, np.arange(len(known))):
            raise ValueError(
                f"clauses must be whole numbers from 0 without a gap, got {clauses.tolist()}"
            )

    @property
    def count(self) -> int:
        """The number of clauses."""
        return int(np.max(np.asarray(self.clauses))) + 1

    def value(self, outputs: Array) -> Array:
        """How well the property holds: the least over the clauses of the largest of their rows.

        Args:
          outputs: `[K]`.

        Returns:
          A scalar in units of the outputs; the property holds where it is above 0.
        """
        with jax.default_matmul_precision("highest"):
            rows = jnp.asarray(self.A, outputs.dtype) @ outputs + jnp.asarray(self.b, outputs.dtype)
        return self.least(rows)[0]

    def least(self, rows: Array) -> tuple[Array, Array]:
        """The least over the clauses of the largest of their rows, and which row that is.

        Args:
          rows: `[rows]`, the values of A v + b, or bounds of them.

        Returns:
          (the value; the index of the row): scalars.
        """
        clauses = jnp.asarray(self.clauses)
        own = jnp.where(clauses[:, None] == clauses[None], rows[None], -jnp.inf)
        best = jnp.max(own, axis=1)
        clause = jnp.argmin(best)
        return best[clause], jnp.argmax(own[clause])


def margins(y: int | Array, num_classes: int) -> Property:
    """The property that class `y` has strictly the largest logit.

    Args:
      y: the label, an integer scalar known on the host.
      num_classes: the number of classes K, at least 2.

    Returns:
      A `Property` of K - 1 rows e_y - e_j, one clause each, in float32.

    Raises:
      ValueError: fewer than 2 classes, or a label that is none of them.
    """
    checks.at_least("num_classes", num_classes, 2)
    checks.label("y", y, num_classes=num_classes)
    eye = np.eye(num_classes, dtype=np.float32)
    rows = np.delete(eye[int(y)] - eye, int(y), axis=0)
    return Property(jnp.asarray(rows), jnp.zeros(num_classes - 1, jnp.float32))
