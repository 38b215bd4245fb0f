"""Cascades: each input goes to the first network whose own prediction is certified there.

Let B(x) be the ball around x, and stage i certify x when its bounds prove that f_i predicts one
label, f_i(x), on all of B(x). The cascade's label at x is that of the first stage that certifies x,
and the last stage's where none does. Balls are symmetric, so that

  (*) if some x' in B(x) is certified by stage i, its label there is f_i(x),

because x lies in B(x'), on which f_i is constant. What a label at x is worth is a matter of rules.

"published" (the released evaluation): some stage certifies x. Nothing follows for other points of
B(x): an earlier stage may certify one of them with another label, its own f_i(x).

"strict" (algorithm 4 of Wong's thesis): moreover all stages up to the certifying one, j, predict
the same label y at x. Then no point of B(x) holds under this rule with another label. Proof: let
x' in B(x) hold with label c, certified by stage k. If k <= j then c = f_k(x) by (*), which is y as
the stages up to j agree at x. If k > j, the stages up to k agree at x', so c = f_j(x'), which is y
since stage j certifies x. An adversary can still reach points at which the rule does not hold and
the label is anything: the cascade is a detector (corollary 2), a weaker promise than the
certificate of a single network.

"unanimous": all stages predict y at x and the last one certifies it. Then the cascade's label is y
on all of B(x), whether certified or not. Proof: at x' in B(x) the label is that of a certifying
stage i, f_i(x) = y by (*), or of the last stage, which is y as it certifies x.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxrobust import checks
from jaxrobust.data.batches import padded_batches, to_inputs
from jaxrobust.data.types import Split
from jaxrobust.devices import Device
from jaxrobust.duals.certificates import Certificate, certify
from jaxrobust.duals.relaxed_network import METHODS
from jaxrobust.duals.trace import logits_of
from jaxrobust.models.coercion import ModelLike, as_fixed
from jaxrobust.types import Array, LogitsFn, Model, PyTree, ThreatModel

RULES = ("published", "strict", "unanimous")
"""What makes a cascade's label count as certified; see the module."""


class Decision(NamedTuple):
    """A cascade's label for one example."""

    label: Array
    """int: of the first stage that certifies its own prediction, else of the last stage."""
    stage: Array
    """int: the stage the label comes from."""
    certified: Array
    """bool: the rule holds. Under "strict", a label without it must be refused, not believed."""


def decide(labels: Array, certified: Array, *, rule: str = "strict") -> Decision:
    """The cascade's decision, from each stage's prediction and whether that is certified.

    Pure arithmetic, for certificates from anywhere that are sound on a symmetric ball: exact,
    bounded, or missing here and there.

    Args:
      labels: what each stage predicts, integers `[S]` for S stages, first to last.
      certified: bool `[S]`, whether each stage certifies its own prediction.
      rule: what makes the cascade's label count as certified: "published", "strict" or
        "unanimous"; see the module.

    Returns:
      A `Decision` of scalars: `label`, in the dtype of `labels`; `stage`, the index of the stage
      that the label comes from, an integer; and `certified`, bool, whether the rule holds.

    Raises:
      ValueError: no stage, an unknown rule, `labels` that are no integers, or a `certified` that is
        not of their shape or not bool.
    """
    checks.choice("rule", rule, RULES)
    shape = jnp.shape(labels)
    if len(shape) != 1 or not shape[0]:
        raise ValueError(
            f"labels must have shape [S] for at least one stage, got {shape}; "
            "map over examples with jax.vmap"
        )
    if jnp.shape(certified) != shape or jnp.result_type(certified) != jnp.bool_:
        raise ValueError(
            f"certified must hold one bool for each of {shape[0]} stages, got "
            f"{jnp.result_type(certified)} of shape {jnp.shape(certified)}"
        )
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise ValueError(f"labels must be integers, got {jnp.result_type(labels)}")
    some, first = jnp.any(certified), jnp.argmax(certified)
    stages = jnp.arange(len(labels), dtype=first.dtype)
    stage = jnp.where(some, first, stages[-1])
    if rule == "unanimous":
        holds = certified[-1] & jnp.all(labels == labels[0])
    else:
        agreeing = (labels == labels[0]) | (stages > stage)
        holds = some if rule == "published" else some & jnp.all(agreeing)
    return Decision(labels[stage], stage, holds)


def cascade_predict(
    fs: Sequence[LogitsFn],
    x: Array,
    threat: ThreatModel,
    *,
    rule: str = "strict",
    methods: Sequence[str] = METHODS,
    boxed: bool = False,
    chunk: int | None = None,
    bucket: int | None = None,
) -> Decision:
    """The decision of a cascade for one example, and its worth.

    All stages are evaluated. "strict" and "unanimous" speak of the whole ball around `x` (with
    `boxed=True`, of its part in the pixel box); the proofs are in the module. Wong's thesis,
    section 3.4.7 and algorithm 4, whose printed test of J has its sign the wrong way round.

    Args:
      fs: the stages, first to last, each a classifier of one example.
      x: one example of any shape, as in `certify`.
      threat: the set around `x`, as in `certify`.
      rule: what makes the label count as certified, as in `decide`.
      methods, boxed, chunk, bucket: see `certify`; the released cascades were evaluated with
        `methods=("wong_kolter",)`.

    Returns:
      A `Decision` of scalars: `label`, an int32 class; `stage`, an int32 index into `fs`, the stage
      that the label comes from; and `certified`, bool, whether the rule holds.

    Raises:
      ValueError: no stage, stages of different classes, an unknown rule, or as `certify`.
    """
    if not fs:
        raise ValueError("a cascade needs at least one stage, got none")
    found = [
        _own(f, x, threat, methods=methods, boxed=boxed, chunk=chunk, bucket=bucket) for f in fs
    ]
    counts = [c.lower.shape[0] for c in found]
    if len(set(counts)) > 1:
        raise ValueError(f"the stages of a cascade need the same classes, got logits of {counts}")
    labels = jnp.stack([c.y for c in found])
    return decide(labels, jnp.stack([c.certified for c in found]), rule=rule)


def cascade_verdict(
    fs: Sequence[LogitsFn],
    x: Array,
    y: Array,
    threat: ThreatModel,
    *,
    rule: str = "strict",
    methods: Sequence[str] = METHODS,
    boxed: bool = False,
    chunk: int | None = None,
    bucket: int | None = None,
) -> Array:
    """Whether the cascade's label at `x` is `y`, and counts as certified under the rule.

    The mean of its negation is the cascade's robust error: "published" that of the released
    evaluation, a figure without a proof; "strict" above the share of examples that an adversary
    takes to a wrong label that holds; "unanimous" above that of any wrong label.

    Args:
      fs, x, threat, rule, methods, boxed, chunk, bucket: as in `cascade_predict`.
      y: the label, an integer scalar.

    Returns:
      A bool scalar: True where the label is `y` and certified.

    Raises:
      ValueError: a label that is no integer or, where its value is known, no class, or as
        `cascade_predict`.
    """
    decision = cascade_predict(
        fs, x, threat, rule=rule, methods=methods, boxed=boxed, chunk=chunk, bucket=bucket
    )
    checks.label("y", y, num_classes=logits_of(fs[0], x).shape[0])
    return decision.certified & (decision.label == y)


def _own(
    f: LogitsFn,
    x: Array,
    threat: ThreatModel,
    *,
    methods: Sequence[str] = METHODS,
    boxed: bool = False,
    chunk: int | None = None,
    bucket: int | None = None,
) -> Certificate:
    """The certificate of `f`'s own prediction."""
    # in the precision of the bounds, which are about the same logits
    with jax.default_matmul_precision("highest"):
        label = jnp.argmax(f(x))
    return certify(f, x, label, threat, methods=methods, boxed=boxed, chunk=chunk, bucket=bucket)


def uncertified(
    model: ModelLike,
    variables: PyTree,
    split: Split,
    threat: ThreatModel,
    *,
    batch_size: int = 100,
    methods: Sequence[str] = METHODS,
    boxed: bool = False,
    chunk: int | None = None,
) -> np.ndarray:
    """Which examples of `split` a stage does not certify: those to train the next stage on.

    A stage that certifies its own prediction keeps the example, right or wrong, for it would answer
    at prediction time too. Wong's thesis, algorithm 4, which by a slip keeps the certified ones.
    Runs on all local devices, the batch size rounded up to a multiple of their number; a new radius
    or other parameters do not recompile.

    Args:
      model: the stage; see `models.as_model`.
      variables: its numbers, None for a function or module that holds its own; see
        `models.as_variables`.
      split: the data, N examples.
      threat: the set around every example, as in `certify`.
      batch_size: the number of examples that are bounded at a time.
      methods, boxed, chunk: as in `certify`.

    Returns:
      A bool array `[N]` on the host, in the order of `split`: True where the stage's own prediction
      is not certified.

    Raises:
      ValueError: an empty split, `batch_size` below 1, or as `certify` and `models.as_variables`.
      TypeError: no model, or no variables; the message says what to pass.
    """
    checks.at_least("batch_size", batch_size, 1)
    model, variables = as_fixed(model, variables)
    devices = tuple(jax.local_devices())
    rows = -(-min(batch_size, split.size) // len(devices)) * len(devices)
    index, mask = (np.asarray(a) for a in padded_batches(split.size, rows))
    run = _program(model, devices, tuple(methods), boxed, chunk)
    found = [np.asarray(run(variables, threat, split.x[i])) for i in index]
    return ~np.stack(found)[mask]


@functools.lru_cache(maxsize=8)
def _program(
    model: Model,
    devices: tuple[Device, ...],
    methods: tuple[str, ...],
    boxed: bool,
    chunk: int | None,
) -> Callable[..., Array]:
    """`run(variables, threat, images [B, ...]) -> certified [B]`, compiled over the devices."""

    def run(variables: PyTree, threat: ThreatModel, images: Array) -> Array:
        f = model.logits_fn(variables)

        def one(x: Array) -> Array:
            return _own(f, x, threat, methods=methods, boxed=boxed, chunk=chunk).certified

        return jax.vmap(one)(to_inputs(images))

    rows, whole = PartitionSpec("examples"), PartitionSpec()
    mesh = Mesh(np.asarray(devices), ("examples",))
    # traced operations mix constants and per-device values, which the check would refuse
    return jax.jit(
        jax.shard_map(
            run, mesh=mesh, in_specs=(whole, whole, rows), out_specs=rows, check_vma=False
        )
    )
