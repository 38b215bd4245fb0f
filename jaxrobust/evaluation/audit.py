"""Warnings to read before an attacked accuracy is believed: what makes attacks fail for nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend import core

from jaxrobust import checks, losses
from jaxrobust.attacks.batch import Box
from jaxrobust.data import to_inputs
from jaxrobust.devices import Device
from jaxrobust.evaluation.batched_pass import Examples, Job, every_example, prepare
from jaxrobust.evaluation.report import Report, accuracy
from jaxrobust.models import ModelLike
from jaxrobust.types import (
    Array,
    AttackResult,
    Key,
    LogitsFn,
    PyTree,
)

PIXEL = 1 / 255
"""Largest coordinate of the step on which a gradient is put to the test."""
MISPREDICTED = 0.1
"""Share of examples above which gradients that mispredict that step raise a warning."""
UNEXPLAINED = 0.2
"""Points of accuracy that attacks without gradients may take from those with them (AutoAttack)."""

MASKED = "masked gradients"
"""Name of the flag for that."""

_MEANING: Mapping[str, str] = {
    "random numbers": "the forward pass draws random numbers ({}), the same ones or new ones",
    "flat operations": "operations on the input have the derivative zero almost everywhere ({}); "
    "unless a custom rule stands in, gradients do not see past them",
    "while loop": "the input passes a loop of unknown length ({}), which has no reverse-mode "
    "gradient; a scan has one",
    "stopped gradient": "gradients are cut on the way from the input ({})",
    "callback": "the forward pass calls the host ({}), which JAX cannot differentiate or hold pure",
    "custom derivative": "derivative rules of the model's own ({}): attacks follow them, right or "
    "wrong",
}

_RANDOM = {"random_bits", "random_gamma", "threefry2x32", "rng_bit_generator", "rng_uniform"}
_FLAT = {"round", "floor", "ceil", "sign", "rem", "argmax", "argmin", "nextafter"}
_CUSTOM = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
# Functions of jax.nn, jax.numpy and jax.scipy, whose own rules are exact.
_EXACT = {"relu", "relu6", "_softmax", "log1mexp", "logaddexp", "logaddexp2", "logit", "log_ndtr"}
_EXACT |= {"xlogy", "xlog1py", "_xlogx", "_sinc_maclaurin"}
_SHIFTS = {"max", "select_n", "broadcast_in_dim", "reshape", "squeeze", "convert_element_type"}

Found = TypeVar("Found", bound=NamedTuple)
Randomized = Callable[..., Array]
"""A `LogitsFn` that takes a key as well, as those of `Model.logits_fn` do."""
Severity = Literal["warning", "note"]


class Flag(NamedTuple):
    """Something that can make an attacked accuracy too high: a reason to look, not a proof."""

    name: str
    message: str
    """What was seen, with numbers."""
    severity: Severity
    """A note is worth knowing and needs no mending by itself."""


class _Outputs(NamedTuple):
    """Logits `[K]` without a key and with two different ones."""

    logits: Array
    drawn: Array
    drawn_anew: Array


class _Slopes(NamedTuple):
    """Whether the input gradients of one example are zero, broken, rounded away, or misleading."""

    zero: Array
    broken: Array
    underflow: Array
    rounded: Array
    mispredicted: Array


def _outputs(key: Key, f: Randomized, x: Array, y: Array) -> _Outputs:
    del y
    first, second = jax.random.split(key)
    return _Outputs(f(x), f(x, key=first), f(x, key=second))


def _slopes(key: Key, f: LogitsFn, x: Array, y: Array) -> _Slopes:
    del key
    logits, pull = jax.vjp(f, x)
    (ce,), (margin,) = (
        pull(jax.grad(loss)(logits, y)) for loss in (losses.cross_entropy, losses.margin)
    )
    # Along its gradient the margin must change as much as the gradient foresees.
    reach = jnp.max(jnp.abs(margin))
    usable = jnp.isfinite(reach) & (reach > 0)
    step = jnp.where(usable, PIXEL * margin / jnp.where(usable, reach, 1), 0)
    foreseen = jnp.sum(jnp.where(usable, margin, 0) * step)
    change = (losses.margin(f(x + step), y) - losses.margin(f(x - step), y)) / 2
    # Smaller changes of a margin are mostly rounding of its logits.
    floor = 1e3 * jnp.finfo(logits.dtype).eps * jnp.max(jnp.abs(logits))
    flat = jnp.all(margin == 0)
    return _Slopes(
        zero=flat & jnp.all(ce == 0),
        broken=~jnp.all(jnp.isfinite(ce) & jnp.isfinite(margin)),
        underflow=~flat & jnp.all(ce == 0),
        rounded=jax.nn.softmax(logits)[y] == 1,
        mispredicted=(foreseen > floor) & ~(jnp.abs(change - foreseen) <= foreseen / 2),
    )


def audit(
    model: ModelLike,
    variables: PyTree,
    examples: Examples,
    *,
    key: Key,
    batch_size: int,
    limit: int = 100,
    devices: Sequence[Device] | None = None,
    box: Box | None = None,
) -> tuple[Flag, ...]:
    """Looks for what makes attacks fail without making a model robust.

    On the first `limit` examples it reads the outputs (probabilities, NaN, passes that differ, few
    classes) and the input gradients (none, zero, not finite, rounded away in the precision at
    hand, or at odds with how the margin changes by a step of `PIXEL` along them); and in the
    traced forward pass, the operations that stand between input and output. These are warnings,
    not proof, and their absence proves nothing: read on with `sanity`.

    The causes are those of Athalye et al. 2018 (arXiv:1802.00420), section 3; the flags on outputs
    and zero gradients are AutoAttack's (its released code), the test of the gradient and the
    reading of the trace are not. The trace knows an operation by its name alone: a model's own
    `relu` with a false rule passes it.

    Args:
      model, variables, examples, batch_size, devices, box: see `evaluate`.
      key: for models that draw random numbers when they predict.
      limit: how many examples are looked at.

    Returns:
      A `Flag` for each thing seen, on the outputs first, then on the gradients, then in the trace;
      `()` if nothing is seen.

    Raises:
      ValueError: `limit` below 1, or what `evaluate` raises.
    """
    checks.at_least("limit", limit, 1)
    x, y = examples
    job = prepare(
        model,
        variables,
        (x[:limit], y[:limit]),
        batch_size=batch_size,
        devices=devices,
        num_classes=None,
        box=box,
    )
    traced = [
        Flag(kind, _MEANING[kind].format(", ".join(sorted(names))), "warning")
        for kind, names in _suspicious_operations(job).items()
    ]
    return (*_output_flags(job, key), *_gradient_flags(job, key), *traced)


def attack_flags(report: Report) -> tuple[Flag, ...]:
    """Looks for signs, in the results of attacks on one threat set, that they failed.

    An attack that spent no backward pass (Square, noise, Boundary) and takes more than
    `UNEXPLAINED` points from the per-example worst case of those that did is AutoAttack's sign of
    masked gradients (its released code does so for Square). With `survivors=True` an attack is
    not blamed for examples that it never saw.

    Args:
      report: what `evaluate` returned for these attacks.

    Returns:
      A `Flag` for each sign: masked gradients and NaN margins, attack by attack, then a clean
      accuracy of 0 (all of these warnings) or else one of 0 in the worst case (a note); `()` if
      there is none.
    """
    count, flags = report.count, []
    # A survivors' pass leaves NaN as the norm of examples it did not attack.
    stands = {n: a.robust | np.isnan(a.norm) for n, a in report.attacks.items()}
    guided = [n for n, a in report.attacks.items() if a.backwards > 0]
    held = np.logical_and.reduce([report.clean, *(stands[n] for n in guided)])
    for name, attack in report.attacks.items():
        gain = accuracy(held & ~stands[name])
        if guided and name not in guided and gain > UNEXPLAINED:
            message = f"{name} takes {gain:.2f} points from the worst case of "
            using = f"{len(guided)} attacks that use gradients"
            flags.append(Flag(MASKED, message + using, "warning"))
        broken = np.isnan(attack.margin) & np.isfinite(attack.norm)
        if broken.any():
            flags.append(Flag("NaN margins", f"{name}: {broken.sum()} of {count}", "warning"))
    if not report.clean.any():
        message = f"the model predicts none of {count} examples right: nothing was left to attack"
        flags.append(Flag("no clean accuracy", message, "warning"))
    elif not report.worst_case.any():
        message = f"all {count} examples are broken: this radius tells models apart no longer"
        flags.append(Flag("everything broken", message, "note"))
    return tuple(flags)


def _probe(job: Job, key: Key, run: Callable[..., Found]) -> Found:
    """`run` on every example, through the machinery that runs attacks: arrays `[N, ...]`."""
    # What it returns is the caller's matter: passes take any tree of arrays.
    attack = cast(Callable[..., AttackResult], run)
    return every_example(job, key, attack, keep_examples=True, tick=lambda: None)[0]


def _output_flags(job: Job, key: Key) -> Iterator[Flag]:
    first, again = (_probe(job, key, _outputs) for _ in range(2))
    slack = float(jnp.finfo(first.logits.dtype).eps) ** 0.5
    logits, repeated, *drawn = (
        np.asarray(a, np.float64)
        for a in (first.logits, again.logits, first.drawn, first.drawn_anew)
    )
    count, classes = logits.shape
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        message = f"on {(~finite).sum()} of {count} clean examples"
        yield Flag("logits not finite", message, "warning")
    elif (logits >= 0).all() and (np.abs(logits.sum(axis=1) - 1) <= slack).all():
        message = f"on all {count} examples the outputs are nonnegative and sum to 1"
        yield Flag("probabilities", f"{message}; return the logits before the softmax", "warning")
    elif (np.abs(np.logaddexp.reduce(logits, axis=1)) <= slack).all():
        message = f"on all {count} examples logsumexp is 0, which every loss here may take"
        yield Flag("log-probabilities", message, "note")
    for name, what, pair, mend in (
        ("impure model", "two passes", (logits, repeated), "make it a pure function"),
        ("randomized model", "predictions with two keys", drawn, "use attacks.expectation"),
    ):
        apart = ~np.isclose(*pair, rtol=slack, atol=slack, equal_nan=True).all(axis=1)
        if apart.any():
            message = f"{what} differ on {apart.sum()} of {count} examples; {mend}"
            yield Flag(name, message, "warning")
    if classes <= 3:
        lost = "targeted DLR" if classes == 3 else "DLR, targeted or not"
        message = f"{classes} classes have no {lost}: APGD takes the margin in its place"
        yield Flag("few classes", message, "note")


def _gradient_flags(job: Job, key: Key) -> Iterator[Flag]:
    f = job.model.logits_fn(job.variables)
    try:
        jax.eval_shape(jax.grad(lambda x: f(x)[0]), _example_shape(job))
    except (TypeError, ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        yield Flag("no gradient", f"JAX cannot differentiate the model: {reason}", "warning")
        return
    found, count = _probe(job, key, _slopes), len(job.x)
    kinds: dict[str, tuple[float, Severity, str]] = {
        "zero gradients": (0.0, "warning", "cross-entropy and margin both have none"),
        "gradients not finite": (0.0, "warning", "attacks count such entries as zero"),
        "cross-entropy underflows": (
            0.0,
            "warning",
            "its gradient is zero and the margin's is not"
            "; climb margin, error_log_odds or log_cross_entropy",
        ),
        "confident predictions": (
            0.0,
            "note",
            "p_y rounds to 1, so that log_softmax loses its "
            "gradient; losses.cross_entropy does not",
        ),
        "misleading gradients": (
            MISPREDICTED,
            "warning",
            "along its gradient the margin does not "
            "change as foreseen, within a half, by a step of 1/255",
        ),
    }
    for (name, (share, severity, meaning)), mask in zip(kinds.items(), found, strict=True):
        if mask.mean() > share:
            yield Flag(name, f"on {mask.sum()} of {count} examples: {meaning}", severity)


def _example_shape(job: Job) -> jax.ShapeDtypeStruct:
    """One input of the job as the model sees it."""
    raw = jax.ShapeDtypeStruct(job.x.shape[1:], job.x.dtype)
    return jax.eval_shape(to_inputs, raw)


def _suspicious_operations(job: Job) -> dict[str, set[str]]:
    """Names of the suspicious operations of the forward pass, by their kind in `_MEANING`."""

    def forward(variables: PyTree, key: Key, x: Array) -> Array:
        f = cast(Randomized, job.model.logits_fn(variables))
        return f(x, key=key)

    traced = jax.make_jaxpr(forward)(job.variables, jax.random.key(0), _example_shape(job)).jaxpr
    found: dict[str, set[str]] = {}
    for kind, name in _walk(traced, [False] * (len(traced.invars) - 1) + [True]):
        found.setdefault(kind, set()).add(name)
    return found


def _walk(jaxpr: core.Jaxpr, depends: Sequence[bool]) -> Iterator[tuple[str, str]]:
    """(kind, name) of what feeds the output; `depends` says which inputs depend on the example."""
    reached = {v for v, d in zip(jaxpr.invars, depends, strict=True) if d}
    made: dict[core.Var, core.JaxprEqn] = {}
    for eqn in jaxpr.eqns:
        made.update(dict.fromkeys(eqn.outvars, eqn))
        if not reached.isdisjoint(_variables(eqn)):
            reached.update(eqn.outvars)
    live = {v for v in jaxpr.outvars if isinstance(v, core.Var)}
    for eqn in reversed(jaxpr.eqns):
        if live.isdisjoint(eqn.outvars):
            continue
        live.update(_variables(eqn))
        touched = [isinstance(v, core.Var) and v in reached for v in eqn.invars]
        yield from _kinds(eqn, touched, made)
        for inner in _inner(eqn):
            # The operands of calls and branches come last; what a loop carries may mix with all.
            mixed = eqn.primitive.name in ("scan", "while") or len(inner.invars) > len(touched)
            last = touched[len(touched) - len(inner.invars) :]
            yield from _walk(inner, [any(touched)] * len(inner.invars) if mixed else last)


def _kinds(
    eqn: core.JaxprEqn, touched: Sequence[bool], made: Mapping[core.Var, core.JaxprEqn]
) -> Iterator[tuple[str, str]]:
    name = eqn.primitive.name
    if name in _RANDOM:
        yield "random numbers", name
    elif "callback" in name:
        yield "callback", name
    elif not any(touched):
        return
    elif name in _FLAT:
        yield "flat operations", name
    elif name == "select_n" and touched[0] and not any(touched[1:]):
        yield "flat operations", "a choice between constants"
    elif name == "convert_element_type":
        before, after = (cast(ShapedArray, v.aval).dtype for v in (eqn.invars[0], eqn.outvars[0]))
        if jnp.issubdtype(before, jnp.inexact) != jnp.issubdtype(after, jnp.inexact):
            yield "flat operations", f"{before} to {after}"
    elif name == "while":
        yield "while loop", name
    elif name == "stop_gradient" and not _is_maximum(eqn.invars[0], made):
        yield "stopped gradient", name
    elif name in _CUSTOM and (called := _called(eqn)) not in _EXACT:
        yield "custom derivative", called


def _called(eqn: core.JaxprEqn) -> str:
    """The name of the function that has a derivative rule of its own."""
    body = next(_inner(eqn), None)
    return eqn.primitive.name if body is None else body.debug_info.func_src_info.split()[0]


def _is_maximum(variable: object, made: Mapping[core.Var, core.JaxprEqn]) -> bool:
    """Whether it is a maximum up to its shape, by which a stable softmax shifts its input."""
    eqn = made.get(variable) if isinstance(variable, core.Var) else None
    if eqn is None:
        return False
    passed_on = eqn.primitive.name in _SHIFTS and any(_is_maximum(v, made) for v in eqn.invars)
    return eqn.primitive.name == "reduce_max" or passed_on


def _variables(eqn: core.JaxprEqn) -> list[core.Var]:
    return [v for v in eqn.invars if isinstance(v, core.Var)]


def _inner(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    for value in eqn.params.values():
        for part in value if isinstance(value, tuple) else (value,):
            part = part.jaxpr if isinstance(part, core.ClosedJaxpr) else part
            if isinstance(part, core.Jaxpr):
                yield part
