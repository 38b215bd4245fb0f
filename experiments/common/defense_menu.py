"""Training methods by name, for command lines: a recipe makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxrobust import attacks, checks, defenses, lagrangian, training
from jaxrobust.data import Dataset
from jaxrobust.defenses import Defense
from jaxrobust.lagrangian import Multiplier
from jaxrobust.threats import L1, L2, Linf, Union
from jaxrobust.types import Attack

from .recipes import Recipe
from .rows import Method

PAIRING = 0.5
"""Weight of the original ALP and CLP (Kannan et al. 2018, on ImageNet)."""

STARTS: Mapping[str, attacks.Start] = {
    "clean": attacks.clean,
    "gaussian": attacks.gaussian,
    "uniform": attacks.uniform,
    "unclipped": attacks.unclipped,
}
"""Where training attacks start."""


def mode(recipe: Recipe) -> dict[str, Any]:
    """How training attacks see the model, and how their radius grows."""
    return {"attack_mode": recipe.attack_mode, "ramp": recipe.ramp}


def start(name: str) -> attacks.Start:
    """The start of that name."""
    checks.choice("start", name, STARTS)
    return STARTS[name]


def stepped(recipe: Recipe) -> dict[str, Any]:
    """`step_size`, `steps` and `start` of the training attack, the same for every row."""
    sized = {"step_size": recipe.step_size, "steps": recipe.steps}
    return {**sized, "start": start(recipe.start)}


def sampling(recipe: Recipe) -> dict[str, Any]:
    """The settings of DALE's Langevin steps."""
    return {
        **stepped(recipe),
        "temperature": recipe.temperature,
        "noise": recipe.noise,
        "place": "inside" if recipe.noise == "laplace" else "outside",
        "relative": recipe.relative_noise,
    }


def union(recipe: Recipe) -> Union:
    """The union of the three balls."""
    linf, l2, l1 = recipe.radii
    return Union((Linf(linf), L2(l2), L1(l1)))


def union_steps(recipe: Recipe, steps: int) -> tuple[float, ...]:
    """Step sizes 2.5 radius / steps in each ball (Madry's rule)."""
    return tuple(2.5 * radius / steps for radius in recipe.radii)


def each_pgd(recipe: Recipe) -> tuple[Attack, ...]:
    """PGD in each of the three balls."""
    sizes = union_steps(recipe, recipe.steps)
    balls = union(recipe).members
    return tuple(
        attacks.pgd(ball, **{**stepped(recipe), "step_size": size}, keep="last")
        for ball, size in zip(balls, sizes, strict=True)
    )


def _beta(recipe: Recipe) -> dict[str, Any]:
    # The paper's 2/255 at its radius of 8/255, in a method that pays per class and step.
    return {"step_size": recipe.epsilon / 4, "steps": min(recipe.steps, 5)}


def _free(recipe: Recipe, dataset: Dataset) -> Defense:
    shape = (recipe.batch_size, *dataset.shape)
    return defenses.free(recipe.threat, shape=shape, replays=REPLAYS, ramp=recipe.ramp)


def _fgsm_rs(recipe: Recipe) -> Defense:
    size = 1.25 * recipe.epsilon
    begin = start(recipe.single_start)
    return defenses.fgsm(recipe.threat, start=begin, step_size=size, **mode(recipe))


def _grad_align(recipe: Recipe) -> Defense:
    own = {"weight": recipe.grad_align, "attack_mode": recipe.attack_mode}
    return defenses.grad_align(_fgsm_rs(recipe), recipe.threat, **own)


REPLAYS = 8
"""Replays of Free training (Wong's thesis, section 4.2)."""

Make = Callable[[Recipe, Dataset], Defense]

PLAIN: Mapping[str, Make] = {
    "erm": lambda r, d: defenses.erm(),
    "fgsm": lambda r, d: defenses.fgsm(r.threat, **mode(r)),
    "fgsm_rs": lambda r, d: _fgsm_rs(r),
    "n_fgsm": lambda r, d: defenses.n_fgsm(r.threat, **mode(r)),
    "grad_align": lambda r, d: _grad_align(r),
    "free": _free,
    "pgd": lambda r, d: defenses.pgd(r.threat, **stepped(r), **mode(r)),
    "alp": lambda r, d: defenses.alp(
        defenses.trades_attack(r.threat, **stepped(r)), weight=r.alp, **mode(r)
    ),
    "alp_original": lambda r, d: defenses.alp(
        defenses.trades_attack(r.threat, **stepped(r)), weight=PAIRING, original=True, **mode(r)
    ),
    "clp": lambda r, d: defenses.clp(
        defenses.trades_attack(r.threat, **stepped(r)), weight=r.clp, **mode(r)
    ),
    "clp_original": lambda r, d: defenses.noisy_clp(weight=PAIRING),
    "trades": lambda r, d: defenses.trades(
        defenses.trades_attack(r.threat, **stepped(r)), beta=r.beta, **mode(r)
    ),
    "mart": lambda r, d: defenses.mart(
        defenses.trades_attack(r.threat, **stepped(r)), beta=5.0, **mode(r)
    ),
    "dynamic": lambda r, d: defenses.dynamic(r.threat, ramp=r.ramp, **stepped(r)),
    "curriculum": lambda r, d: defenses.curriculum(
        r.threat, ramp=r.ramp, **stepped(r), **_lessons(r, d)
    ),
    "curriculum_mixed": lambda r, d: defenses.curriculum(
        r.threat, mixed=True, ramp=r.ramp, **stepped(r), **_lessons(r, d)
    ),
    "beta": lambda r, d: defenses.beta(attacks.beta(r.threat, **_beta(r)), **mode(r)),
    "sbeta": lambda r, d: defenses.sbeta(
        attacks.optimizer_steps(r.threat, **_beta(r)), mu=1.0, **mode(r)
    ),
    "msd": lambda r, d: defenses.msd(
        attacks.msd(union(r), step_sizes=union_steps(r, r.steps), steps=r.steps), **mode(r)
    ),
    "worst": lambda r, d: defenses.worst(*each_pgd(r), **mode(r)),
    "augmented": lambda r, d: defenses.augmented(each_pgd(r), **mode(r)),
    "cvar": lambda r, d: defenses.cvar(
        attacks.pgd(r.threat, **stepped(r), keep="last"), share=0.5, learning_rate=0.05, **mode(r)
    ),
    "awp": lambda r, d: defenses.awp(
        attacks.pgd(r.threat, keep="last", **stepped(r)), gamma=0.005, **mode(r)
    ),
    "mixup": lambda r, d: defenses.mixup(
        attacks.pgd(r.threat, keep="last", **stepped(r)), alpha=1.4, **mode(r)
    ),
}
"""Methods with one row each."""

CONSTRAINED: Mapping[str, Callable[[Recipe, float], Defense]] = {
    "dale": lambda r, rho: defenses.dale(
        attacks.langevin(r.threat, **sampling(r)), rho=rho, **mode(r)
    ),
    "kl_dale": lambda r, rho: defenses.kl_dale(
        defenses.trades_attack(r.threat, **stepped(r)), rho=rho, **mode(r)
    ),
    "reverse_dale": lambda r, rho: defenses.dale(
        attacks.langevin(r.threat, **sampling(r)), rho=rho, reverse=True, **mode(r)
    ),
}
"""Methods with a row for each level of the constrained loss."""

METHODS = (*PLAIN, *CONSTRAINED)


def _lessons(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    # The last number of steps must come before the end of a short run.
    total = recipe.epochs * training.steps_per_epoch(dataset, recipe.batch_size)
    patience = max(1, total // (2 * recipe.steps))
    return {"threshold": recipe.curriculum_threshold, "patience": patience}


UNLABELED = frozenset({"kl_dale"})
"""Constrained methods whose objective knows no labels: at nu = 0 a constant prediction is best, and
with nu growing as the cube of progress one of three MNIST runs stayed there. It grows earlier."""


def multiplier(name: str, recipe: Recipe, dataset: Dataset, level: float) -> Multiplier:
    """The multiplier of the constrained method `name`, which holds its loss at `level`."""
    checks.choice("dual", recipe.dual, ("pi", "ascent"))
    per_epoch = training.steps_per_epoch(dataset, recipe.batch_size)
    period = per_epoch if recipe.dual_update == "epoch" else 1
    own = {"initial": recipe.dual_initial, "period": period}
    growth = min(recipe.dual_growth, 2.0) if name in UNLABELED else recipe.dual_growth
    if recipe.dual == "ascent":
        return lagrangian.dual_ascent(recipe.dual_step, **own)
    return lagrangian.for_run(
        recipe.epochs * per_epoch,
        level=level,
        integral=recipe.dual_integral,
        proportional=recipe.dual_proportional,
        window=recipe.dual_window,
        growth=growth,
        **own,
    )


def make_methods(names: Sequence[str], recipe: Recipe, dataset: Dataset) -> list[Method]:
    """The rows of a table: one for each name, for constrained methods one for each rho.

    Raises:
      ValueError: an unknown name.
    """
    rows = []
    for name in names:
        checks.choice("method", name, METHODS)
        if name in PLAIN:
            rows.append(Method(name, PLAIN[name](recipe, dataset)))
            continue
        for rho in recipe.rho:
            defense, moving = CONSTRAINED[name](recipe, rho), multiplier(name, recipe, dataset, rho)
            rows.append(Method(f"{name} rho={rho:g}", defense, moving, rho))
    return rows
