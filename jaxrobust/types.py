"""Shapes that every part of the library agrees on.

Everything is written for one example: `x` has any shape, `y` is an integer scalar, a model is a
pure function `f(x) -> logits [K]`. Batches are `jax.vmap` axes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax

Array = jax.Array
Key = jax.Array
Scalar = jax.Array | float
PyTree = Any

LogitsFn = Callable[[Array], Array]
"""One example `x` (any shape) -> logits `[K]`, without softmax."""

Loss = Callable[[Array, Array], Array]
"""(logits `[K]`, label) -> scalar. Attacks maximize it."""


@runtime_checkable
class ThreatModel(Protocol):
    """The set of points an adversary may move one clean example `x` to: a ball and a pixel box.

    Implementations are frozen dataclass pytrees whose numbers are leaves, so that a new radius
    never recompiles and `vmap` over radii draws a curve. `x` is the clean example, `z` any point.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def radius(self) -> Scalar:
        """How far points may lie from `x`, in the set's own norm."""
        ...

    def sample(self, key: Key, x: Array) -> Array:
        """A random point of the set around `x`."""
        ...

    def project(self, x: Array, z: Array) -> Array:
        """The point of the set around `x` closest to `z`."""
        ...

    def steepest(self, gradient: Array, z: Array) -> Array:
        """The unit-norm step from `z` along which a function with this gradient rises fastest."""
        ...

    def dual_norm(self, gradient: Array) -> Array:
        """max <gradient, d> over the unit ball of the threat's norm."""
        ...

    def size(self, x: Array, z: Array) -> Array:
        """How far `z` is from `x`, in the units of `radius`."""
        ...

    def contains(self, x: Array, z: Array) -> Array:
        """Whether `z` lies in the set around `x`, up to float rounding."""
        ...


@runtime_checkable
class BoxedBall(ThreatModel, Protocol):
    """A norm ball around the clean example, intersected with a pixel box."""

    @property
    def lower(self) -> Scalar:
        """Least value of a pixel."""
        ...

    @property
    def upper(self) -> Scalar:
        """Largest value of a pixel."""
        ...


class AttackResult(NamedTuple):
    """What an attack found for one example, and the evidence for it.

    `success` is judged on a fresh prediction at `x`, and only a point inside the threat set
    counts. A NaN or tied prediction counts as fooled: it is never evidence for the model.
    """

    x: Array
    """The point found, of the clean example's shape."""
    success: Array
    """bool: inside the threat set and not predicted as the label."""
    inside: Array
    """bool: the point lies in the threat set up to float rounding."""
    loss: Array
    """The attack's own objective at the point."""
    margin: Array
    """Largest wrong logit minus the label's logit; comparable between attacks, > 0 is wrong."""
    norm: Array
    """Distance from the clean example in the threat's norm."""
    forwards: Array
    """int32: forward passes spent."""
    backwards: Array
    """int32: backward passes spent."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Attack:
    """An attack with its settings, called as `attack(key, f, x, y) -> AttackResult` on one example.

    A pytree: the numbers (`leaves`: radius, step size, ...) are traced, the rest (`run`,
    `options`) is static. Pass it to a jitted function and a second radius does not recompile;
    `vmap` over an attack built with an array of radii draws a robustness curve.
    """

    run: Callable[..., AttackResult] = dataclasses.field(metadata={"static": True})
    leaves: Mapping[str, PyTree] = dataclasses.field(default_factory=dict)
    options: tuple[tuple[str, Any], ...] = dataclasses.field(default=(), metadata={"static": True})
    scales: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
    """The leaves beside `threat` that are lengths in the set, so that they grow and shrink with its
    radius: step sizes, for most. See `defenses.base.adversarial_examples` on ramps."""

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        return self.run(key, f, x, y, **self.leaves, **dict(self.options))

    def replace(self, **changes: Any) -> Attack:
        """The same attack with other settings; an unknown name is an error."""
        settings = self.settings
        for name in changes:
            if name not in settings:
                known = ", ".join(sorted(settings))
                raise ValueError(f"this attack has no setting {name!r}; it has: {known}")
        leaves = {name: changes.get(name, value) for name, value in self.leaves.items()}
        options = tuple((name, changes.get(name, value)) for name, value in self.options)
        return dataclasses.replace(self, leaves=leaves, options=options)

    @property
    def bare(self) -> Attack:
        """The attack as training uses it: its point is always the one that its search ends at.

        An evaluation must not lose an example that the model errs on without an attack, so that
        attacks return the clean example where that alone fools the model (`judge(clean=True)`, the
        setting `clean`). A training loss is defined at the points of the search. So `clean` is
        False here, in this attack and in those that it is made of.
        """
        leaves = jax.tree.map(
            lambda part: part.bare if isinstance(part, Attack) else part,
            dict(self.leaves),
            is_leaf=lambda part: isinstance(part, Attack),
        )
        options = tuple((n, False if n == "clean" else value) for n, value in self.options)
        return dataclasses.replace(self, leaves=leaves, options=options)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Every setting by name."""
        return MappingProxyType({**self.leaves, **dict(self.options)})

    @property
    def threats(self) -> tuple[Any, ...]:
        """The sets that it searches: its own `threat`, then those of the attacks it is made of.

        Empty where nothing tells, as for an attack that is a plain function.
        """
        parts = {name: value for name, value in self.leaves.items() if name != "threat"}
        inner = jax.tree.leaves(parts, is_leaf=lambda part: isinstance(part, Attack))
        own = (self.leaves["threat"],) if "threat" in self.leaves else ()
        return own + tuple(t for part in inner if isinstance(part, Attack) for t in part.threats)


def make_attack(
    run: Callable[..., AttackResult],
    leaves: dict[str, PyTree],
    *,
    scales: Sequence[str] = (),
    **options: Any,
) -> Attack:
    """Builds an `Attack` from a module-level function, its numbers and its static options.

    Args:
      scales: the names of the leaves beside `threat` that grow along with its radius.

    Raises:
      ValueError: `scales` names something that is no leaf.
    """
    for name in scales:
        if name not in leaves:
            known = ", ".join(sorted(leaves))
            raise ValueError(
                f"scales names {name!r}, which is no leaf of this attack; it has: {known}"
            )
    return Attack(run, leaves, tuple(sorted(options.items())), tuple(scales))


class Variables(NamedTuple):
    """A model's numbers: trained parameters, and statistics that a forward pass may renew."""

    params: PyTree
    stats: PyTree = ()


class Model(NamedTuple):
    """A batched classifier as two pure functions; training and defenses see nothing else.

    `init(key, x [B, ...]) -> Variables`;
    `apply(variables, x [B, ...], *, train, key, axes) -> (logits [B, K], stats)`. With
    `train=True`, batch statistics are averaged over the named axes `axes` and the renewed
    running statistics are returned; `key` drives dropout. With `train=False` the statistics come
    back unchanged, and examples never influence one another; a defense that is random at
    prediction time draws from `key`, and is deterministic where it is None.
    """

    init: Callable[..., Variables]
    apply: Callable[..., tuple[Array, PyTree]]

    def logits_fn(self, variables: Variables) -> LogitsFn:
        """The evaluation-mode classifier of one example, as attacks and certificates want it.

        It takes an optional `key=`, from which a randomized defense draws; see
        `attacks.expectation`.
        """

        def f(x: Array, key: Key | None = None) -> Array:
            return self.apply(variables, x[None], train=False, key=key, axes=())[0][0]

        return f


class Batch(NamedTuple):
    """Examples of one step: images or vectors in [0, 1], labels, and each one's data-set index."""

    x: Array
    y: Array
    index: Array  # pyright: ignore[reportIncompatibleMethodOverride]
