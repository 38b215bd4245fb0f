"""What `inspect.signature` shows of public functions: every argument, with its type."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable

import pytest

from jaxrobust import attacks, defenses, models, training
from jaxrobust.threats import Linf

PACKAGES = (
    *("attacks", "data", "defenses", "duals", "evaluation", "export", "figures", "lagrangian"),
    *("losses", "models", "sinkhorn", "training"),
)


def public(package: str) -> dict[str, Callable]:
    """The functions that a package exports or, where it is a module, defines."""
    module = importlib.import_module(f"jaxrobust.{package}")
    names = getattr(module, "__all__", None)
    found = vars(module) if names is None else {name: getattr(module, name) for name in names}
    return {
        name: value
        for name, value in found.items()
        if inspect.isfunction(value)
        and not name.startswith("_")
        # a module without __all__ exports what is its own
        and (names is not None or value.__module__ == module.__name__)
    }


def hidden(function: Callable) -> list[str]:
    """The parameters that do not say what they are: **options, and those without a type."""
    return [
        name
        for name, p in inspect.signature(function).parameters.items()
        if p.kind is p.VAR_KEYWORD or p.annotation is p.empty
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_argument_is_listed_with_its_type(package: str) -> None:
    functions = public(package)
    assert functions
    assert {name: hidden(f) for name, f in functions.items() if hidden(f)} == {}


def test_hidden_arguments_are_found() -> None:
    def sly(x: int, y, **options: int) -> None: ...

    assert hidden(sly) == ["y", "options"]


@pytest.mark.parametrize(
    "function", [attacks.pgd, attacks.langevin, attacks.beta, defenses.pgd, defenses.trades_attack]
)
def test_a_misspelt_argument_is_an_error_of_the_function_called(function: Callable) -> None:
    with pytest.raises(TypeError, match=rf"{function.__name__}\(\).*'stepsize'"):
        function(Linf(0.1), stepsize=0.1, steps=3)


@pytest.mark.parametrize(
    "make",
    [
        lambda t: defenses.adversarial(t),
        lambda t: defenses.alp(t, weight=1.0),
        lambda t: defenses.augmented([t]),
        lambda t: defenses.awp(t, gamma=0.1),
        lambda t: defenses.beta(t),
        lambda t: defenses.binary_trades(t, lam=1.0),
        lambda t: defenses.clp(t, weight=1.0),
        lambda t: defenses.cvar(t, share=0.5, learning_rate=0.1),
        lambda t: defenses.dale(t, rho=0.2),
        lambda t: defenses.kl_dale(t, rho=0.2),
        lambda t: defenses.mart(t, beta=5.0),
        lambda t: defenses.mixup(t, alpha=1.0),
        lambda t: defenses.msd(t),
        lambda t: defenses.sbeta(t, mu=1.0),
        lambda t: defenses.trades(t, beta=6.0),
        lambda t: defenses.worst(t),
    ],
)
def test_a_set_in_an_attacks_place_is_told_the_call(make: Callable) -> None:
    with pytest.raises(TypeError, match=r"takes an attack, got Linf; write defenses\.\w+\(.*\("):
        make(Linf(0.1))


def test_a_network_and_a_schedule_name_the_options_they_have() -> None:
    with pytest.raises(TypeError, match="schedule 'cosine' has no option 'at'; it has: none"):
        training.schedule("cosine", 0.1, 10, {"at": 0.5})
    with pytest.raises(TypeError, match=r"network 'mlp' has no option 'depth'; it has: .*widths"):
        models.build("mlp", 10, {"depth": 3})
