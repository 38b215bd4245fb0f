"""A radius that grows from 0 at the start of training."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxrobust import checks
from jaxrobust.types import Array, Attack, PyTree, Scalar, ThreatModel


def share_done(progress: Scalar, ramp: Scalar) -> Array:
    """min(1, progress / ramp), the share of the ramp that is over; 1 for a ramp of 0."""
    if checks.is_concrete(ramp) and ramp == 0:
        return jnp.ones_like(progress)
    return jnp.minimum(1, progress / ramp)


def grown_threat(threat: ThreatModel, progress: Scalar, ramp: Scalar) -> ThreatModel:
    """The set with its radius scaled by the share of the ramp that is over."""
    if checks.is_concrete(ramp) and ramp == 0:
        return threat
    return dataclasses.replace(threat, radius=threat.radius * share_done(progress, ramp))


def grown(attack: Attack, progress: Scalar, ramp: Scalar) -> Attack:
    """The attack with its radius, and what it says goes with it, scaled by the share that is over.

    What goes with the radius is declared by the attack (`types.length`, step sizes for most): of
    one that declares nothing the radius alone grows, and its steps are full from the start. So for
    attacks that it is made of, each by its own declaration.
    """
    if checks.is_concrete(ramp) and ramp == 0:
        return attack
    scale, lengths = share_done(progress, ramp), attack.lengths

    def part(name: str, value: PyTree) -> PyTree:
        if name == "threat":
            return grown_threat(value, progress, ramp)
        if name in lengths:
            return jax.tree.map(lambda size: size * scale, value)
        return jax.tree.map(
            lambda v: grown(v, progress, ramp) if _is_attack(v) else v, value, is_leaf=_is_attack
        )

    return attack.replace(**{name: part(name, value) for name, value in attack.leaves.items()})


def check_ramp(ramp: Scalar, attack: Attack) -> None:
    """Raises ValueError unless 0 <= ramp <= 1 and the attack has a radius to grow."""
    checks.fraction("ramp", ramp)
    grows = not checks.is_concrete(ramp) or ramp > 0
    if grows and not getattr(attack, "threats", ()):
        raise ValueError(
            f"ramp={ramp} needs an attack with a `threat` setting, such as pgd, or one made of "
            "such attacks; train without a ramp"
        )


def _is_attack(value: PyTree) -> bool:
    return isinstance(value, Attack)
