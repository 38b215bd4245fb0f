"""Shapes that every part of the library agrees on.

Everything is written for one example: `x` has any shape, `y` is an integer scalar, a model is a
pure function `f(x) -> logits [K]`. Batches are `jax.vmap` axes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import (
    Any,
    ClassVar,
    NamedTuple,
    Protocol,
    Self,
    dataclass_transform,
    runtime_checkable,
)

import jax

from jaxrobust.pytree import pytree

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
        """max `<gradient, d>` over the unit ball of the threat's norm."""
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


def static(*, default: Any = dataclasses.MISSING) -> Any:
    """A field of an `Attack` that is part of the compiled program: steps, functions, choices."""
    return dataclasses.field(default=default, metadata={"static": True})


def length(*, default: Any = dataclasses.MISSING) -> Any:
    """A field of an `Attack` that is a length in its set, as step sizes are: it grows and shrinks
    with the radius. See `defenses.base.adversarial_examples` on ramps."""
    return dataclasses.field(default=default, metadata={"length": True})


def spread(*, length: bool = False) -> Any:
    """A field that holds numbers by name, each of which is a setting of its own."""
    return dataclasses.field(metadata={"spread": True, "length": length})


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(static, length, spread)
)
class Attack:
    """An attack with its settings, called as `attack(key, f, x, y) -> AttackResult` on one example.

    Each attack is a class of fields and of `__call__`, its formula; a subclass is made a frozen
    dataclass, with keywords, and a pytree. Its numbers (radius, step size, ...) are leaves, its
    `static` fields are not: pass it to a jitted function and a second radius does not recompile;
    `vmap` over an attack built with an array of radii draws a robustness curve.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __init_subclass__(cls) -> None:
        pytree(dataclasses.dataclass(frozen=True, kw_only=True)(cls))

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        raise NotImplementedError(f"{type(self).__name__} has no __call__(key, f, x, y)")

    def lanes(self, classes: int) -> int:
        """How many copies of an example it runs side by side, on a model of so many classes."""
        del classes
        return 1

    def replace(self, **changes: Any) -> Self:
        """The same attack with other settings; an unknown name is an error."""
        settings = self.settings
        for name in changes:
            if name not in settings:
                known = ", ".join(sorted(settings))
                raise ValueError(f"this attack has no setting {name!r}; it has: {known}")
        made = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata.get("spread"):
                made[field.name] = {n: changes.get(n, v) for n, v in value.items()}
            else:
                made[field.name] = changes.get(field.name, value)
        return type(self)(**made)

    @property
    def bare(self) -> Self:
        """The attack as training uses it: its point is always the one that its search ends at.

        An evaluation must not lose an example that the model errs on without an attack, so that
        attacks return the clean example where that alone fools the model (`judge(clean=True)`, the
        setting `clean`). A training loss is defined at the points of the search. So `clean` is
        False here, in this attack and in those that it is made of.
        """
        parts = jax.tree.map(
            lambda part: part.bare if isinstance(part, Attack) else part,
            dict(self.leaves),
            is_leaf=lambda part: isinstance(part, Attack),
        )
        return self.replace(**parts, **({"clean": False} if "clean" in self.settings else {}))

    @property
    def settings(self) -> Mapping[str, Any]:
        """Every setting by name."""
        return self._named(lambda field: True)

    @property
    def leaves(self) -> Mapping[str, PyTree]:
        """The traced settings by name."""
        return self._named(lambda field: not field.metadata.get("static"))

    @property
    def lengths(self) -> Mapping[str, PyTree]:
        """The leaves beside `threat` that are lengths in the set."""
        return self._named(lambda field: field.metadata.get("length"))

    @property
    def threats(self) -> tuple[Any, ...]:
        """The sets that it searches: its own `threat`, then those of the attacks it is made of.

        Empty where nothing tells, as for an attack that is a plain function.
        """
        parts = {name: value for name, value in self.leaves.items() if name != "threat"}
        inner = jax.tree.leaves(parts, is_leaf=lambda part: isinstance(part, Attack))
        own = (self.leaves["threat"],) if "threat" in self.leaves else ()
        return own + tuple(t for part in inner if isinstance(part, Attack) for t in part.threats)

    def _named(self, wanted: Callable[[dataclasses.Field], Any]) -> Mapping[str, Any]:
        named = {}
        for field in filter(wanted, dataclasses.fields(self)):
            value = getattr(self, field.name)
            named.update(value if field.metadata.get("spread") else {field.name: value})
        return MappingProxyType(named)


class FunctionAttack(Attack):
    """A plain function `run(key, f, x, y) -> AttackResult` where an `Attack` is wanted."""

    run: Callable[[Key, LogitsFn, Array, Array], AttackResult] = static()

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        return self.run(key, f, x, y)


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
        `attacks.expectation`. As a `jax.tree_util.Partial` it may be an argument of a compiled
        program, where other variables of the same model do not recompile.
        """
        return jax.tree_util.Partial(_OfOne(self.apply), variables)


@dataclasses.dataclass(frozen=True)
class _OfOne:
    """A batched model on one example; equal for equal models, so that programs are found again."""

    apply: Callable[..., tuple[Array, PyTree]]

    def __call__(self, variables: PyTree, x: Array, key: Key | None = None) -> Array:
        return self.apply(variables, x[None], train=False, key=key, axes=())[0][0]


class Batch(NamedTuple):
    """Examples of one step: images or vectors in [0, 1], labels, and each one's data-set index."""

    x: Array
    y: Array
    index: Array  # pyright: ignore[reportIncompatibleMethodOverride]
