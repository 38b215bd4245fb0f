"""Attacks on tiny random networks: what every one of them owes, at random settings.

    python -m tests.fuzz.attacks --calls 1500 --seed 0

A kind is an attack with its static settings on one ball, one box and one shape of network; each is
compiled once and called on many networks, examples, labels and radii, and judged in float64. A
point outside of the set, a number that is not finite, a verdict that a fresh prediction does not
bear out, an example that was misclassified before the attack and is no success, a kept loss below
the start's, or a batch that does not repeat its single calls is a fault.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import attacks, losses
from jaxrobust.threats import L1, L2, Linf, Union
from jaxrobust.types import Attack, AttackResult

BALLS = {"linf": Linf, "l2": L2, "l1": L1}
BOXES = {"pixels": (0.0, 1.0), "centered": (-1.0, 1.0), "free": (-np.inf, np.inf)}
SHAPES = ((5,), (3, 4), (3, 4, 2))
EXTREMES = (0.0, 1e-30, 1e-20, 1e-10, 1e-4, 1e4, 1e10, 1e20, 1e30)
STARTS = {
    "clean": attacks.clean,
    "uniform": attacks.uniform,
    "gaussian": attacks.gaussian,
}
LOSSES = {
    "cross-entropy": losses.cross_entropy,
    "margin": losses.margin,
    "log-error": losses.log_error_probability,
}

Make = Callable[[Any, dict[str, Any]], Attack]
"""(threat, random static settings) -> attack; step sizes are shares of the radius."""


class Entry(NamedTuple):
    """An attack of the fuzz."""

    make: Make
    balls: tuple[str, ...] = tuple(BALLS)
    free: bool = True
    """Defined without a pixel box."""
    exact: bool = True
    """Promises a point inside of the set."""


def _climb(make: Callable[..., Attack], **fixed: Any) -> Make:
    return lambda t, s: make(
        t, step_size=s["share"] * t.radius, steps=s["steps"], start=STARTS[s["start"]],
        keep=s["keep"], **fixed,
    )  # fmt: skip


def _lossy(make: Callable[..., Attack], **fixed: Any) -> Make:
    return lambda t, s: _climb(make, loss=LOSSES[s["loss"]], **fixed)(t, s)


def _langevin(threat: Any, s: dict[str, Any]) -> Attack:
    options = {"noise": s["noise"], "place": s["place"], "temperature": 1e-3}
    return _climb(attacks.langevin, **options)(threat, s)


def _union(threat: Any, s: dict[str, Any]) -> Attack:
    box = {"lower": threat.lower, "upper": threat.upper}
    members = tuple(ball(threat.radius, **box) for ball in BALLS.values())
    sizes = [s["share"] * threat.radius] * len(members)
    return attacks.msd(
        Union(members), step_sizes=sizes, steps=s["steps"], start=STARTS[s["start"]],
        keep=s["keep"], coordinates=(1, 3),
    )  # fmt: skip


def _growing(threat: Any, s: dict[str, Any]) -> Attack:
    return attacks.growing(
        threat, step=threat, step_size=s["share"] * threat.radius, steps=s["steps"], factor=1.0,
        every=2, start=STARTS[s["start"]],
    )  # fmt: skip


def _gated(threat: Any, s: dict[str, Any]) -> Attack:
    return attacks.fosc_stopped_pgd(
        threat, step_size=s["share"] * threat.radius, steps=s["steps"], threshold=0.1,
        start=STARTS[s["start"]],
    )  # fmt: skip


def _worst_of(threat: Any, s: dict[str, Any]) -> Attack:
    return attacks.worst_of(attacks.fgsm(threat), _langevin(threat, s))


def _apgd(threat: Any, s: dict[str, Any]) -> Attack:
    make = attacks.apgd_l1 if isinstance(threat, L1) else attacks.apgd
    return make(threat, steps=3 + s["steps"], loss=losses.dlr_or_margin)


MENU: dict[str, Entry] = {
    "fgsm": Entry(lambda t, s: attacks.fgsm(t, start=STARTS[s["start"]])),
    "pgd": Entry(_lossy(attacks.pgd)),
    "momentum": Entry(_lossy(attacks.momentum)),
    "langevin": Entry(_langevin),
    "beta": Entry(_climb(attacks.beta)),
    "multi-targeted": Entry(_climb(attacks.multi_targeted)),
    "restarts": Entry(lambda t, s: attacks.restarts(_climb(attacks.pgd)(t, s), 2)),
    "worst-of": Entry(_worst_of),
    "gated": Entry(_gated),
    "growing": Entry(_growing),
    "n-fgsm": Entry(lambda t, s: attacks.n_fgsm(t), exact=False),
    "msd": Entry(_union, balls=("linf",)),
    "apgd": Entry(_apgd),
    "apgd-t": Entry(lambda t, s: attacks.targeted(_apgd(t, s), loss=losses.targeted_dlr_or_margin)),
    "frank-wolfe": Entry(lambda t, s: attacks.frank_wolfe(t, steps=1 + s["steps"])),
    "fab": Entry(lambda t, s: attacks.fab(t, steps=s["steps"]), exact=False),
    "square": Entry(lambda t, s: attacks.square(t, queries=10 * s["steps"])),
    "deepfool": Entry(lambda t, s: attacks.deepfool(t, steps=s["steps"]), exact=False),
    "ddn": Entry(lambda t, s: attacks.ddn(t, steps=s["steps"]), ("l2",), exact=False),
    "cw": Entry(
        lambda t, s: attacks.carlini_wagner(t, steps=s["steps"], searches=3),
        ("l2",), free=False, exact=False,
    ),
    "cw-linf": Entry(
        lambda t, s: attacks.carlini_wagner_linf(t, steps=s["steps"], rounds=4),
        ("linf",), free=False, exact=False,
    ),
    "ead": Entry(
        lambda t, s: attacks.elastic_net(t, steps=s["steps"], searches=3), ("l1",), exact=False
    ),
    "lbfgs": Entry(
        lambda t, s: attacks.lbfgs(t, steps=s["steps"], searches=3), free=False, exact=False
    ),
    "boundary": Entry(
        lambda t, s: attacks.boundary(t, steps=5 * s["steps"]), ("l2",), free=False, exact=False
    ),
    "pointwise": Entry(lambda t, s: attacks.pointwise(t, passes=2), free=False, exact=False),
    "gaussian-noise": Entry(lambda t, s: attacks.gaussian_noise(t, levels=3, repeats=2)),
    "uniform-noise": Entry(lambda t, s: attacks.uniform_noise(t, levels=3, repeats=2)),
    "salt-and-pepper": Entry(
        lambda t, s: attacks.salt_and_pepper(t, levels=3, repeats=2), free=False
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Kind:
    """What one program is compiled for."""

    attack: str
    ball: str
    box: str
    shape: tuple[int, ...]
    classes: int
    settings: tuple[tuple[str, Any], ...]

    @property
    def options(self) -> dict[str, Any]:
        """The static settings by name."""
        return dict(self.settings)


class Call(NamedTuple):
    """The traced part: a network, an example and a radius, or stacks of them."""

    w1: Any
    b1: Any
    w2: Any
    b2: Any
    x: Any
    y: Any
    radius: Any
    index: Any


def settings_of(rng: np.random.Generator) -> tuple[tuple[str, Any], ...]:
    """Static settings, of which every attack takes those that it has."""
    drawn = {
        "steps": int(rng.integers(1, 6)),
        "share": float(rng.choice([0.1, 0.5, 1.5])),
        "start": str(rng.choice(list(STARTS))),
        "keep": str(rng.choice(["best", "last"])),
        "loss": str(rng.choice(list(LOSSES))),
        "noise": str(rng.choice(["laplace", "gaussian"])),
        "place": str(rng.choice(["inside", "outside"])),
    }
    return tuple(drawn.items())


def kinds(rng: np.random.Generator) -> Iterator[Kind]:
    """Endless, each a random combination of what makes sense."""
    names = list(MENU)
    while True:
        name = str(rng.choice(names))
        entry = MENU[name]
        box = str(rng.choice([b for b in BOXES if entry.free or b != "free"]))
        shape = SHAPES[rng.integers(len(SHAPES))]
        classes = int(rng.integers(2, 5))
        yield Kind(name, str(rng.choice(entry.balls)), box, shape, classes, settings_of(rng))


def calls(kind: Kind, rng: np.random.Generator, count: int, *, extreme: bool) -> Call:
    """`count` networks of one kind; labels are random, so that many are wrong from the start."""
    size, hidden = int(np.prod(kind.shape)), 4
    lower, upper = BOXES[kind.box]
    low, high = (lower, upper) if np.isfinite(lower) else (-2.0, 2.0)
    x = rng.uniform(low, high, size=(count, size))
    faces = rng.uniform(size=x.shape)
    x = np.where(faces < 0.2, low, np.where(faces > 0.8, high, x))
    scale = 10 ** rng.uniform(-1, 1.5, size=(count, 1, 1))
    radii = 10 ** rng.uniform(-3, 1, size=count)
    if extreme:
        radii = rng.choice(EXTREMES, size=count)
    return Call(
        scale * rng.normal(size=(count, hidden, size)) / np.sqrt(size),
        rng.normal(size=(count, hidden)),
        scale * rng.normal(size=(count, kind.classes, hidden)),
        rng.normal(size=(count, kind.classes)),
        x.reshape(count, *kind.shape),
        rng.integers(0, kind.classes, size=count).astype(np.int32),
        radii,
        np.arange(count, dtype=np.int32),
    )


def in_float32(call: Call) -> Call:
    """The numbers of `call` as the attack sees them."""
    return Call(*(a.astype(np.float32) if a.dtype == np.float64 else a for a in call))


def logits(call: Call, z: Any, tanh: Callable) -> Any:
    """Of one example, by NumPy or JAX."""
    return call.w2 @ tanh(call.w1 @ z.reshape(-1) + call.b1) + call.b2


def attack_of(kind: Kind, radius: Any) -> Attack:
    """The attack at one radius."""
    lower, upper = BOXES[kind.box]
    return MENU[kind.attack].make(BALLS[kind.ball](radius, lower, upper), kind.options)


def run(kind: Kind, key: jax.Array, call: Call) -> AttackResult:
    """One call."""
    attack = attack_of(kind, call.radius)
    key = jax.random.fold_in(key, call.index)
    return attack(key, lambda z: logits(call, z, jnp.tanh), call.x, call.y)


def size(ball: str, move: np.ndarray) -> float:
    """The norm in float64."""
    return float(np.linalg.norm(move.ravel(), {"linf": np.inf, "l2": 2, "l1": 1}[ball]))


def faults_of(kind: Kind, call: Call, found: AttackResult) -> Iterator[str]:
    """What is wrong with one result; every check in float64."""
    exact = Call(*(np.asarray(a, np.float64 if a.dtype == np.float32 else None) for a in call))
    lower, upper = BOXES[kind.box]
    z, y = np.asarray(found.x, np.float64), int(call.y)
    if not np.isfinite(z).all():
        yield "the point is not finite"
        return
    for name in ("loss", "margin", "norm"):
        if not np.isfinite(getattr(found, name)):
            yield f"{name} is {getattr(found, name)}"
    move = z - exact.x
    unit = 2e-6 * (1 + np.abs(exact.x) + np.abs(z))
    slack = size(kind.ball, np.where(move == 0, 0, unit)) + 1e-5 * exact.radius
    boxed = (z >= lower - 1e-5).all() and (z <= upper + 1e-5).all()
    near = kind.attack == "msd" or size(kind.ball, move) <= exact.radius + slack
    if not boxed:
        yield "the point leaves the box"
    if MENU[kind.attack].exact and not (near and found.inside):
        yield f"the point leaves the ball: {size(kind.ball, move)} of {exact.radius}"
    if found.inside and not near:
        yield f"counts as inside at {size(kind.ball, move)} of {exact.radius}"

    def margin(point: np.ndarray) -> float:
        scores = logits(exact, point, np.tanh)
        return float(np.delete(scores, y).max() - scores[y])

    rounding = 1e-4 * (1 + np.abs(exact.w2).sum() + np.abs(exact.b2).sum())
    if abs(margin(z) - float(found.margin)) > rounding:
        yield f"margin {found.margin} of {margin(z)}"
    if found.success != (found.inside and found.margin >= 0):
        yield "the verdict is not that of margin and membership"
    if margin(exact.x) > rounding and not found.success:
        yield f"misclassified from the start by {margin(exact.x)}, and no success"
    climbs = kind.attack in ("pgd", "momentum") and kind.options["keep"] == "best"
    if climbs and kind.options["start"] == "clean" and not found.success:
        loss = LOSSES[kind.options["loss"]]
        before = loss(jnp.asarray(logits(exact, exact.x, np.tanh), jnp.float32), call.y)
        if found.loss < before - rounding:
            yield f"the loss falls from {before} to {found.loss}"


def differ(one: AttackResult, other: AttackResult, radius: float) -> bool:
    """Whether two results of one call differ by more than rounding can explain.

    Rounding may turn a sign, and a search that it turns ends elsewhere: at a point as good.
    """
    apart = np.abs(np.asarray(one.x) - np.asarray(other.x)).max()
    if apart <= 1e-4 * (1 + min(float(radius), 1.0)):
        return False
    return bool(one.success != other.success)


def faults(kind: Kind, *, seed: int, count: int, extreme: bool = False) -> list[str]:
    """The faults of `count` calls of one kind."""
    rng = np.random.default_rng(seed)
    key = jax.random.key(seed)
    made = in_float32(calls(kind, rng, count, extreme=extreme))
    together = jax.jit(jax.vmap(lambda call: run(kind, key, call)))(jax.tree.map(jnp.asarray, made))
    together = jax.tree.map(np.asarray, together)
    wrong = []
    for i in range(count):
        call, found = (jax.tree.map(lambda a: a[i], tree) for tree in (made, together))  # noqa: B023
        told = f"{kind} radius {call.radius} seed {seed} call {i}"
        wrong += [f"{told}: {fault}" for fault in faults_of(kind, call, found)]
    first = jax.tree.map(lambda a: a[0], made)
    alone = jax.jit(lambda call: run(kind, key, call))(jax.tree.map(jnp.asarray, first))
    if differ(jax.tree.map(lambda a: a[0], together), alone, first.radius):
        wrong.append(f"{kind} radius {first.radius} seed {seed}: a single call ends elsewhere")
    return wrong


def main() -> None:
    """Fuzzes for as many calls as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1500)
    parser.add_argument("--each", type=int, default=20, help="calls of one kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(MENU), help="these attacks alone")
    options = parser.parse_args()
    rng, total, wrong = np.random.default_rng(options.seed), 0, []
    for kind in kinds(rng):
        if total >= options.calls:
            break
        if options.only and kind.attack not in options.only:
            continue
        # every third kind runs at radii that float32 can barely hold
        extreme = bool(rng.integers(3) == 0)
        seed = options.seed + total
        new = faults(kind, seed=seed, count=options.each, extreme=extreme)
        total, wrong = total + options.each, wrong + new
        for line in new[:2]:
            print(line, flush=True)
    print(f"{total} calls, {len(wrong)} faults")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
