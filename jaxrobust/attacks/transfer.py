"""Transfer: craft on one model, score on another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxrobust import losses
from jaxrobust.attacks.ascend import judge
from jaxrobust.types import Array, Attack, AttackResult, Key, LogitsFn, Model, PyTree, static

if TYPE_CHECKING:
    from jaxrobust.models import ModelLike


class Transfer(Attack):
    """What `transfer` makes; see there."""

    attack: Attack
    variables: PyTree
    model: Model = static()
    clean: bool = static(default=True)

    def lanes(self, classes: int) -> int:
        return self.attack.lanes(classes)

    def __call__(self, key: Key, f: LogitsFn, x: Array, y: Array) -> AttackResult:
        # What the source model errs on tells nothing about the attacked one.
        crafted = self.attack.bare(key, self.model.logits_fn(self.variables), x, y)
        threat = self.attack.settings["threat"]
        costs = {"forwards": crafted.forwards, "backwards": crafted.backwards}
        return judge(f, threat, x, y, crafted.x, losses.margin, clean=self.clean, **costs)


def transfer(attack: Attack, model: ModelLike, variables: PyTree) -> Transfer:
    """Runs `attack` on a source model and scores the point it finds on the attacked one.

    The black-box attack of TRADES, section 5.3.2, and of most transfer studies: no query of the
    attacked model but the last, at the point and at the clean example. The loss reported is the
    margin there.

    Args:
      attack: run on the source model; needs a `threat` setting. With `keep="last"` a first-order
        attack does not stop improving where the source model alone is fooled.
      model: the source classifier, with the same input shape and classes; see `models.as_model`.
      variables: its numbers, None for a function or module that holds its own; see
        `models.as_variables`.

    Raises:
      ValueError: an attack without a `threat` setting, or as `models.as_variables`.
      TypeError: no model, or no variables; the message says what to pass.
    """
    if "threat" not in attack.settings:
        raise ValueError("transfer needs an attack with a `threat` setting, such as pgd or apgd")
    # Here, as Flax takes a second to load, and no other attack needs it.
    from jaxrobust.models.coercion import as_fixed

    model, variables = as_fixed(model, variables)
    return Transfer(attack=attack, variables=variables, model=model)
