"""Attacks made of attacks: restarts, target classes, the worst of several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxrobust import checks, losses
from jaxrobust.types import Array, Attack, AttackResult, Key, LogitsFn, static

TargetedLoss = Callable[[Array, Array, Array], Array]
"""(logits, label, target class) -> scalar to maximize."""


RANKS = ("margin", "loss", "norm", "loss alone")


def worst(results: AttackResult, *, by: str = "margin") -> AttackResult:
    """The strongest of results stacked on a leading axis: success first, then the largest `by`.

    With `by="norm"`, for minimum-norm attacks: success first, then the misclassified point of
    smallest norm, inside the set or not; where no point is misclassified, the largest margin.
    With `by="loss alone"`, for training: the largest loss of a point inside the set, successful or
    not. NaN counts as the largest of all.

    Args:
      results: an `AttackResult` of one example, with R of them on a leading axis: points
        `[R, ...]`, the other fields `[R]`.
      by: "margin", "loss", "norm" or "loss alone".

    Returns:
      One of the results, its point `[...]` and its other fields scalars, but with the passes of all
      R summed: every one of them was paid. Points outside the set rank last, the first one where
      none is inside, except with "norm".

    Raises:
      ValueError: an unknown `by`.
    """
    checks.choice("by", by, RANKS)
    value = results.loss if by == "loss alone" else getattr(results, by)
    value = jnp.where(jnp.isnan(value), jnp.inf, value)
    if by == "norm":
        fools = ~(results.margin < 0)
        nearest = jnp.where(fools, -value, -jnp.inf)
        score = jnp.where(jnp.any(fools), nearest, results.margin)
    else:
        score = jnp.where(results.inside, value, -jnp.inf)
    # A successful result outranks any loss: compare scores among the successful ones only.
    equals = results.success | ~jnp.any(results.success) | (by == "loss alone")
    ranked = jnp.where(equals, score, -jnp.inf)
    # Where no score is finite above -inf, argmax of `success` still finds a successful result.
    best = jnp.where(jnp.max(ranked) > -jnp.inf, jnp.argmax(ranked), jnp.argmax(results.success))
    chosen = jax.tree.map(lambda a: a[best], results)
    return chosen._replace(forwards=jnp.sum(results.forwards), backwards=jnp.sum(results.backwards))


Found = TypeVar("Found")


def over(run: Callable[..., Found], args: tuple, *, chunk: int | None) -> Found:
    """`vmap`, or with `chunk` a loop over groups of that many: less memory, same results."""
    return jax.lax.map(lambda a: run(*a), args, batch_size=chunk) if chunk else jax.vmap(run)(*args)


def abreast(runs: int, chunk: int | None) -> int:
    """How many of so many runs are side by side."""
    return min(runs, chunk or runs)


class Restarts(Attack):
    """What `restarts` makes; see there."""

    attack: Attack
    count: int = static()
    by: str = static()
    chunk: int | None = static()

    def lanes(self, classes: int) -> int:
        return abreast(self.count, self.chunk) * self.attack.lanes(classes)

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        keys = jax.random.split(key, self.count)
        return worst(over(lambda k: self.attack(k, f, x, y), (keys,), chunk=self.chunk), by=self.by)


def restarts(attack: Attack, count: int, *, by: str = "loss", chunk: int | None = None) -> Restarts:
    """The best of `count` independent runs: success first, then the attack's own loss.

    Args:
      attack: a randomized attack.
      count: how many runs.
      by: how to rank equals: "loss", "margin", "norm" for minimum-norm attacks, or "loss alone"
        for training; see `worst`.
      chunk: how many run side by side (default all); memory grows with it, results do not change.

    Example:
      >>> from jaxrobust import attacks, threats
      >>> pgd = attacks.pgd(threats.Linf(0.1), step_size=0.02, steps=10)
      >>> attacks.restarts(pgd, 5).replace(count=3).count
      3
    """
    checks.at_least("count", count, 1)
    checks.choice("by", by, RANKS)
    check_chunk(chunk)
    return Restarts(attack=attack, count=count, by=by, chunk=chunk)


def rivals(logits: Array, y: Array, count: int | None) -> Array:
    """The wrong classes of largest logit, best first: `[min(count, K - 1)]` (None: K - 1)."""
    others = logits.shape[-1] - 1
    # The label sorts last, after NaN logits as well.
    order = jnp.nan_to_num(-logits).at[y].set(jnp.inf)
    return jnp.argsort(order)[: others if count is None else min(count, others)]


def at_targets(
    key: Key,
    f: LogitsFn,
    x: Array,
    y: Array,
    classes: Array,
    *,
    attack: Attack,
    loss: TargetedLoss = losses.targeted_margin,
    chunk: int | None = None,
) -> AttackResult:
    """`attack` on `loss` at each of the target classes `[T]`; results gain a leading axis `[T]`."""

    def run(key: Key, target: Array) -> AttackResult:
        aimed = attack.replace(loss=lambda z, label: loss(z, label, target))
        return aimed(key, f, x, y)

    return over(run, (jax.random.split(key, classes.size), classes), chunk=chunk)


class Targeted(Attack):
    """What `targeted` makes; see there."""

    attack: Attack
    loss: TargetedLoss = static()
    targets: int | None = static()
    chunk: int | None = static()

    def lanes(self, classes: int) -> int:
        runs = min(self.targets or classes, classes - 1)
        return abreast(runs, self.chunk) * self.attack.lanes(classes)

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        ranked = rivals(f(x), y, self.targets)
        result = worst(
            at_targets(key, f, x, y, ranked, attack=self.attack, loss=self.loss, chunk=self.chunk)
        )
        return result._replace(forwards=result.forwards + 1)


def targeted(
    attack: Attack,
    *,
    loss: TargetedLoss = losses.targeted_margin,
    targets: int | None = None,
    chunk: int | None = None,
) -> Targeted:
    """Runs `attack` at each of the likeliest wrong classes and keeps the strongest result.

    Any misclassification counts, not only into the target. The result has the largest margin.

    Args:
      attack: an attack with a `loss` setting, which is replaced.
      loss: maximized per target, e.g. `losses.targeted_margin`, `losses.targeted_dlr`.
      targets: how many wrong classes, by clean logit (default: all K - 1).
      chunk: how many targets run side by side (default all).
    """
    if "loss" not in attack.settings:
        raise ValueError("targeted needs an attack with a `loss` setting, such as pgd or langevin")
    if targets is not None:
        checks.at_least("targets", targets, 1)
    check_chunk(chunk)
    return Targeted(attack=attack, loss=loss, targets=targets, chunk=chunk)


class WorstOf(Attack):
    """What `worst_of` makes; see there."""

    attacks: tuple[Attack, ...]
    by: str = static()

    def lanes(self, classes: int) -> int:
        return max(attack.lanes(classes) for attack in self.attacks)

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        keys = jax.random.split(key, len(self.attacks))
        results = [attack(k, f, x, y) for attack, k in zip(self.attacks, keys, strict=True)]
        return worst(jax.tree.map(lambda *leaves: jnp.stack(leaves), *results), by=self.by)


def worst_of(*attacks: Attack, by: str = "margin") -> WorstOf:
    """Runs every attack and keeps the per-example worst: success first, then the largest margin.

    With attacks on different threat sets this is the union of threats: `inside` and `norm` are
    those of the winning attack's own set. `by="norm"` takes the closest misclassified point
    instead, for minimum-norm attacks of one norm, `by="loss alone"` the point of largest loss; see
    `worst`.

    Example:
      >>> from jaxrobust import attacks, threats
      >>> union = [threats.Linf(0.1), threats.L2(0.5)]
      >>> several = [attacks.pgd(t, step_size=t.radius / 4, steps=10) for t in union]
      >>> both = attacks.worst_of(*several)
      >>> [type(threat).__name__ for threat in both.threats]
      ['Linf', 'L2']
    """
    if not attacks:
        raise ValueError("worst_of needs at least one attack, got none")
    checks.choice("by", by, RANKS)
    return WorstOf(attacks=attacks, by=by)


def check_chunk(chunk: Any) -> None:
    if chunk is not None:
        checks.at_least("chunk", chunk, 1)
