"""The same attacks by PyTorch libraries: every attack's peers, and how each is called."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from . import torch_apgd, torch_autoattack, torch_fab, torch_square
from .peers import Make, Peer
from .settings import Settings
from .twin import Perturb, Tensor, Twin


def _plain_pgd(twin: Twin, settings: Settings) -> Perturb:
    import torch

    def perturb(x: Tensor, y: Tensor) -> Tensor:
        low, high = (x - settings.epsilon).clamp(min=0), (x + settings.epsilon).clamp(max=1)
        z = low + (high - low) * torch.rand_like(x)
        for _ in range(settings.pgd_steps):
            z.requires_grad_(True)
            loss = torch.nn.functional.cross_entropy(twin.network(z), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, z)
            z = z.detach() + settings.step_size * gradient.sign()
            z = torch.minimum(torch.maximum(z, low), high)
        return z

    return perturb


def _foolbox(make: Callable[[Any, Settings], Callable[..., Tensor]]) -> Make:
    """Foolbox's own loop, without its wrapper's checks before and after."""

    def build(twin: Twin, settings: Settings) -> Perturb:
        import foolbox

        device = next(twin.network.parameters()).device
        model = foolbox.PyTorchModel(twin.network, bounds=(0, 1), device=device)
        run = make(foolbox.attacks, settings)
        return lambda x, y: run(model, x, foolbox.criteria.Misclassification(y))

    return build


def _carlini_wagner(attacks: Any, settings: Settings, *, abort: bool) -> Callable[..., Tensor]:
    return attacks.L2CarliniWagnerAttack(
        binary_search_steps=settings.searches,
        steps=settings.cw_steps,
        stepsize=settings.cw_step_size,
        initial_const=settings.cw_first,
        abort_early=abort,
    ).run


def _torchattacks(make: Callable[[Any, Twin, Settings], Perturb]) -> Make:
    def build(twin: Twin, settings: Settings) -> Perturb:
        import torchattacks

        return make(torchattacks, twin, settings)

    return build


def _art(make: Callable[[Any, Any, Settings], Any]) -> Any:
    def build(twin: Twin, settings: Settings) -> Perturb:
        import torch
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        device = next(twin.network.parameters()).device
        estimator = PyTorchClassifier(
            model=twin.network,
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=twin.shape,
            nb_classes=twin.classes,
            clip_values=(0.0, 1.0),
            device_type="cpu" if device.type == "cpu" else "gpu",
        )
        attack = make(evasion, estimator, settings)

        def perturb(x: Tensor, y: Tensor) -> Tensor:
            attack.set_params(batch_size=len(x))
            points = attack.generate(x=x.cpu().numpy(), y=y.cpu().numpy())
            return torch.from_numpy(points)

        return perturb

    return build


def _standard(package: Any, twin: Twin, settings: Settings) -> Perturb:
    """AutoAttack's standard suite from torchattacks' parts, with the paper's numbers."""
    linf = {"norm": "Linf", "eps": settings.epsilon, "seed": 0}
    targets = {**linf, "steps": settings.steps, "n_classes": twin.classes}
    return package.MultiAttack(
        [
            package.APGD(twin.network, steps=settings.steps, **linf),
            package.APGDT(twin.network, **targets),
            package.FAB(twin.network, multi_targeted=True, **targets),
            package.Square(twin.network, n_queries=settings.queries, **linf),
        ]
    )


def _authors(make: Callable[[Twin, Settings], Any], *, whole: bool = False) -> tuple[Peer, Peer]:
    """The algorithm of the authors' AutoAttack, as written here, and on a compiled network."""

    def build(twin: Twin, settings: Settings) -> Any:
        return make(torch_autoattack.compiled(twin), settings)

    return (
        Peer("authors' algorithm in PyTorch", "torch", make, whole=whole),
        Peer(
            "authors' algorithm, compiled network, PyTorch",
            "torch",
            build,
            device="cuda",
            whole=whole,
        ),
    )


_NO_CONSTANT = "does not search the constant"
_LINE_SEARCH = "several passes a step, for a line search"
_OTHER_SUITE = "another suite, without APGD-T and FAB-T"

FOOLBOX, TORCHATTACKS, ART = "foolbox", "torchattacks", "adversarial-robustness-toolbox"

PEERS: Mapping[str, tuple[Peer, ...]] = {
    "pgd": (
        Peer("plain PyTorch", "torch", _plain_pgd, note="last iterate"),
        Peer(
            "foolbox",
            FOOLBOX,
            _foolbox(
                lambda attacks, s: functools.partial(
                    attacks.LinfPGD(abs_stepsize=s.step_size, steps=s.pgd_steps).run,
                    epsilon=s.epsilon,
                )
            ),
            note="last iterate",
        ),
        Peer(
            "torchattacks",
            TORCHATTACKS,
            _torchattacks(
                lambda package, twin, s: package.PGD(
                    twin.network, eps=s.epsilon, alpha=s.step_size, steps=s.pgd_steps
                )
            ),
            note="last iterate",
        ),
        Peer(
            "ART",
            ART,
            _art(
                lambda evasion, estimator, s: evasion.ProjectedGradientDescent(
                    estimator,
                    eps=s.epsilon,
                    eps_step=s.step_size,
                    max_iter=s.pgd_steps,
                    num_random_init=1,
                    verbose=False,
                )
            ),
            note="last iterate",
        ),
    ),
    "apgd": (
        *_authors(torch_apgd.apgd_ce),
        Peer(
            "torchattacks",
            TORCHATTACKS,
            _torchattacks(
                lambda package, twin, s: package.APGD(
                    twin.network, eps=s.epsilon, steps=s.steps, seed=0
                )
            ),
        ),
        Peer(
            "ART",
            ART,
            _art(
                lambda evasion, estimator, s: evasion.AutoProjectedGradientDescent(
                    estimator,
                    eps=s.epsilon,
                    eps_step=2 * s.epsilon,
                    max_iter=s.steps,
                    nb_random_init=1,
                    loss_type="cross_entropy",
                    verbose=False,
                )
            ),
            note="last iterate",
        ),
    ),
    "apgdt": (
        *_authors(torch_apgd.apgd_t),
        Peer(
            "torchattacks",
            TORCHATTACKS,
            _torchattacks(
                lambda package, twin, s: package.APGDT(
                    twin.network, eps=s.epsilon, steps=s.steps, n_classes=twin.classes, seed=0
                )
            ),
        ),
    ),
    "ddn": (
        Peer("foolbox", FOOLBOX, _foolbox(lambda attacks, s: attacks.DDNAttack(steps=s.steps).run)),
    ),
    "cw": (
        Peer("foolbox", FOOLBOX, _foolbox(functools.partial(_carlini_wagner, abort=False))),
        Peer(
            "foolbox, early abort",
            FOOLBOX,
            _foolbox(functools.partial(_carlini_wagner, abort=True)),
            same=False,
            note="stops a constant when the batch's sum stalls",
        ),
        Peer("torchattacks", TORCHATTACKS, None, note=_NO_CONSTANT),
        Peer("ART", ART, None, note=_LINE_SEARCH),
    ),
    "fab": (
        *_authors(torch_fab.fab_t),
        Peer(
            "torchattacks",
            TORCHATTACKS,
            _torchattacks(
                lambda package, twin, s: package.FAB(
                    twin.network,
                    eps=s.epsilon,
                    steps=s.steps,
                    multi_targeted=True,
                    n_classes=twin.classes,
                )
            ),
        ),
    ),
    "square": (
        *_authors(torch_square.square),
        Peer(
            "torchattacks",
            TORCHATTACKS,
            _torchattacks(
                lambda package, twin, s: package.Square(
                    twin.network, eps=s.epsilon, n_queries=s.queries
                )
            ),
        ),
    ),
    "autoattack": (
        *_authors(torch_autoattack.suite, whole=True),
        Peer("torchattacks parts", TORCHATTACKS, _torchattacks(_standard)),
        Peer(
            "torchattacks.AutoAttack",
            TORCHATTACKS,
            _torchattacks(
                lambda package, twin, s: package.AutoAttack(
                    twin.network, eps=s.epsilon, n_classes=twin.classes, seed=0
                )
            ),
            same=False,
            note="as shipped, 10 steps a part instead of 100",
        ),
        Peer("ART", ART, None, note=_OTHER_SUITE),
    ),
}
"""Every attack's peers."""
