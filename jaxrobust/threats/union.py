"""The union of several threat sets around one example."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import checks
from jaxrobust.pytree import pytree
from jaxrobust.threats.box import BoxedBall
from jaxrobust.types import Array, Key, Scalar, ThreatModel


@pytree
@dataclasses.dataclass(frozen=True)
class Union:
    """The set of points that lie in at least one of `members`, each scaled by `radius`.

    Its gauge is the distance in the nearest member's norm over that member's radius, so that
    `radius` 1, the default, is the union as given and an array of radii draws a curve. Wong's
    thesis, section 5.3 (there linf .3, l2 1.5 and l1 12 on MNIST).

    Args:
      members: balls with one common pixel box.
      radius: scales all of them.

    Raises:
      ValueError: no member, one that is no ball with a pixel box, members with different boxes, a
        negative or non-finite radius.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxrobust import threats
      >>> both = threats.Union((threats.Linf(0.1), threats.L2(0.5)))
      >>> x, z = jnp.array([0.5, 0.5]), jnp.array([0.9, 0.5])
      >>> bool(both.contains(x, z)), bool(threats.Linf(0.1).contains(x, z))
      (True, False)
    """

    members: tuple[BoxedBall, ...]
    radius: Scalar = 1.0

    def __post_init__(self) -> None:
        checks.nonnegative("radius", self.radius)
        if not self.members:
            raise ValueError("a union needs at least one threat set, got none")
        for member in self.members:
            if not isinstance(member, BoxedBall):
                raise ValueError(
                    f"a union holds balls with a pixel box, such as Linf, L2 and L1, got {member!r}"
                )
        known = [m for m in self.members if _known(m)]
        for member in known[1:]:
            if not _one_box(known[0], member):
                boxes = sorted({_box(m) for m in known})
                raise ValueError(
                    f"the sets of a union need one common pixel box, got boxes that span {boxes}"
                )
        shape = np.shape(self.radius)
        if shape:
            stacks = (
                dataclasses.replace(m, radius=jnp.broadcast_to(m.radius, shape))
                for m in self.members
            )
            object.__setattr__(self, "members", tuple(stacks))

    @property
    def lower(self) -> Scalar:
        """Lower end of the pixel box."""
        return self.members[0].lower

    @property
    def upper(self) -> Scalar:
        """Upper end of the pixel box."""
        return self.members[0].upper

    @property
    def scaled(self) -> tuple[ThreatModel, ...]:
        """The members at their radii times `radius`."""
        return tuple(
            dataclasses.replace(m, radius=self.radius * jnp.asarray(m.radius)) for m in self.members
        )

    def sample(self, key: Key, x: Array) -> Array:
        """A sample of a member drawn uniformly."""
        which, key = jax.random.split(key)
        draws = jnp.stack([m.sample(key, x) for m in self.scaled])
        return draws[jax.random.randint(which, (), 0, len(self.members))]

    def project(self, x: Array, z: Array) -> Array:
        """The closest of the members' projections of `z`, in Euclidean distance.

        Exact where the members' projections are. Differentiable almost everywhere.
        """
        points = jnp.stack([m.project(x, z) for m in self.scaled])
        distances = jnp.stack([jnp.sum((p - z) ** 2) for p in points])
        return points[jnp.argmin(distances)]

    def steepest(self, gradient: Array, z: Array) -> Array:
        """The step of gauge 1 of steepest ascent: of the members', that of largest slope.

        It is as long as the whole radius of its member. Its derivative is zero.
        """
        steps = jnp.stack(
            [jnp.asarray(m.radius, gradient.dtype) * m.steepest(gradient, z) for m in self.members]
        )
        slopes = jnp.stack([jnp.sum(step * jnp.nan_to_num(gradient)) for step in steps])
        return steps[jnp.argmax(slopes)]

    def dual_norm(self, gradient: Array) -> Array:
        """max over the members of radius * dual norm, a scalar: the dual of the gauge."""
        norms = [
            jnp.asarray(m.radius, gradient.dtype) * m.dual_norm(gradient) for m in self.members
        ]
        return jnp.max(jnp.stack(norms))

    def size(self, x: Array, z: Array) -> Array:
        """The gauge: least ratio of distance to radius over the members, a scalar.

        A member of radius 0 has size 0 at `x` and infinity elsewhere.
        """
        ratios = []
        for m in self.members:
            size, radius = m.size(x, z), jnp.asarray(m.radius, jnp.result_type(x))
            apart = jnp.where(size > 0, jnp.inf, 0.0).astype(size.dtype)
            ratios.append(jnp.where(radius > 0, size / jnp.where(radius > 0, radius, 1), apart))
        return jnp.min(jnp.stack(ratios))

    def contains(self, x: Array, z: Array) -> Array:
        """bool scalar: some scaled member contains `z`, up to its rounding."""
        return jnp.any(jnp.stack([m.contains(x, z) for m in self.scaled]))


def _known(member: BoxedBall) -> bool:
    return checks.is_concrete(member.lower) and checks.is_concrete(member.upper)


def _one_box(first: BoxedBall, second: BoxedBall) -> bool:
    """Whether the boxes are one, numbers or arrays."""
    ends = ((first.lower, second.lower), (first.upper, second.upper))
    try:
        return all(bool(np.all(np.equal(a, b))) for a, b in ends)
    except ValueError:  # arrays of two shapes
        return False


def _box(member: BoxedBall) -> tuple[float, float]:
    return float(np.min(member.lower)), float(np.max(member.upper))
