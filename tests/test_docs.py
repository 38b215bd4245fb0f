"""The documentation's code runs as it stands."""

import functools
import importlib.util
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pages
import pytest
import tyro
from training.training_cases import assert_close

from experiments.common import cli
from jaxrobust import (
    attacks,
    defenses,
    evaluation,
    losses,
    models,
    processes,
    threats,
    training,
)
from jaxrobust.defenses.ramp import grown
from jaxrobust.models.torch_layouts import LAYOUTS
from jaxrobust.types import Array, Attack, Key

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def run(page: str) -> dict:
    """The names that a page's blocks of Python define, run in order."""
    names: dict = {"__name__": "page"}
    for played in pages.play(DOCS / page, names):
        print(played.printed)
    return names


SLOW = {"attack", "certify", "constraint", "pytorch", "wasserstein"}
"""Tutorials that take more than seven seconds."""
TUTORIALS = sorted(path.stem for path in (DOCS / "tutorials").glob("*.md"))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in TUTORIALS]
)
@pytest.mark.usefixtures("default_promotion", "one_device")
def test_a_tutorial_prints_what_it_shows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = DOCS / "tutorials" / f"{name}.md"
    if "import torch" in page.read_text() and not importlib.util.find_spec("torch"):
        pytest.skip("PyTorch is not installed")
    monkeypatch.chdir(tmp_path)
    shown = 0
    for played in pages.play(page):
        assert pages.difference(played) is None
        shown += played.shown is not None
    assert shown >= 2


SELDOM = {
    "README.md",  # trains for 10 epochs
    "docs/accelerators.md",  # starts a study on several hosts
    *(f"docs/tutorials/{name}.md" for name in TUTORIALS),
    # Below, with assertions of their own.
    "docs/extending.md",
    "docs/coming-from-pytorch.md",
    "docs/training.md",
}
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in (ROOT / "README.md", *DOCS.rglob("*.md"))
    if any(block.language == "python" for block in pages.blocks(page.read_text()))
)


@pytest.mark.parametrize("page", sorted(set(PAGES) - SELDOM))
@pytest.mark.usefixtures("default_promotion", "one_device")
def test_blocks_of_other_pages_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert list(pages.play(ROOT / page))


@pytest.mark.slow
@pytest.mark.usefixtures("default_promotion", "one_device")
def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run("../README.md")
    assert names["report"].clean_accuracy == 100
    assert 80 < names["attacked"].clean_accuracy < 100
    assert 0 < names["certified"].accuracy <= names["attacked"].worst_case_accuracy


def test_a_study_on_several_hosts_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    # One host, and no more than the study's options: there is no second one here.
    study = importlib.import_module("experiments.dale.__main__")
    started: list[object] = []
    monkeypatch.setattr(processes, "join", lambda: None)
    monkeypatch.setattr(study, "main", started.append)
    monkeypatch.setattr(sys, "argv", ["study"])
    names = run("accelerators.md")
    assert [type(config) for config in started] == [names["Config"]]


def commands() -> list[str]:
    """Every command of a study on a page, in a block of bash or between backquotes."""
    found = []
    for page in (ROOT / "README.md", *DOCS.rglob("*.md")):
        text = page.read_text()
        for block in pages.blocks(text):
            if block.language == "bash":
                found += block.body.replace("\\\n", " ").splitlines()
        found += re.findall(r"`([^`]+)`", pages.FENCE.sub("", text))
    named = (re.search(r"-m (experiments\.\w.*)", " ".join(line.split())) for line in found)
    return sorted({match[1].split("#")[0].strip() for match in named if match})


def test_there_are_commands() -> None:
    assert len(commands()) >= 25


@pytest.mark.parametrize("command", commands())
def test_a_command_has_the_options_that_a_page_gives_it(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, *arguments = shlex.split(command)
    parsed = []

    def parse(main: object, config: Any, description: str | None, *, kept: bool = True) -> None:
        options, unknown = tyro.cli(config, args=arguments, return_unknown_args=True)
        assert not unknown
        parsed.append(options)

    monkeypatch.setattr(cli, "command_line", parse)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert parsed


def test_attacks_of_ones_own() -> None:
    names = run("extending.md")
    x, y = jnp.array([0.52, 0.5]), jnp.int32(0)
    attack = names["attack"]
    assert isinstance(attack, Attack)
    found = attack(jax.random.key(0), lambda z: z, x, y)
    assert bool(found.inside)
    assert int(found.forwards) == 20 + 2  # those of the verdict, clean example included
    assert bool(attacks.restarts(attack, 3)(jax.random.key(0), lambda z: z, x, y).success)
    # A share is no length: the ramp grows the radius alone.
    half = grown(attack, 0.25, 0.5)
    assert float(half.threat.radius) == pytest.approx(0.05)
    assert half.share == 1.0


@pytest.mark.slow
def test_coming_from_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DOCS.parent)
    names = run("coming-from-pytorch.md")
    assert names["result"].x.shape == names["x"].shape
    assert names["report"].clean_accuracy == 100
    x, own = names["x"], names["own"]
    torch_order = x[0].transpose(2, 0, 1).reshape(-1) @ names["weights"]["1.weight"].T
    expected = jnp.maximum(torch_order, 0) @ names["weights"]["3.weight"].T
    assert jnp.allclose(own(x[0]), expected, rtol=1e-3)
    assert (jnp.diff(jnp.asarray(names["curve"].accuracies)) <= 0).all()


def adam(key: object, threat: object, *, step_size: float) -> optax.GradientTransformation:
    return optax.adam(step_size)


# What the tables' calls name, in the units of images in [0, 1].
NUMBERS = {"eps": 0.1, "alpha": 0.02, "steps": 3, "n": 2, "decay": 1.0, "queries": 9}
NUMBERS |= {"c": 1.0, "kappa": 0.0, "lr": 0.01, "r": 0.25, "adam": adam}
PARTS = {"attacks": attacks, "defenses": defenses, "losses": losses, "threats": threats}


def calls() -> list[str]:
    """The calls in the last column of every table on the page."""
    rows = re.findall(r"^\|.*\| ([^|]*) \|$", (DOCS / "coming-from-pytorch.md").read_text(), re.M)
    spans = [span for row in rows for span in re.findall(r"`([^`]+)`", row)]
    return [span for span in spans if re.match(r"(attacks|defenses)\.\w+\(", span)]


@pytest.mark.slow
@pytest.mark.usefixtures("default_promotion")  # Adam's bias correction promotes dtypes
def test_every_call_that_stands_for_one_of_another_library_can_be_made() -> None:
    x, y, made = jnp.full((4, 4, 1), 0.5), jnp.int32(0), 0

    def f(z: Array, key: Key | None = None) -> Array:
        return z.reshape(-1)[:3]

    for call in calls():
        names = {**PARTS, **NUMBERS}
        if "(a, b)" in call:
            pgd = attacks.pgd(threats.Linf(0.1), step_size=0.1, steps=1)
            names |= {"a": pgd, "b": pgd}
        found = eval(call, names)
        made += 1
        if isinstance(found, Attack):
            run = functools.partial(found, f=f, x=x, y=y)
            assert jax.eval_shape(run, jax.random.key(0)).x.shape == x.shape, call
    assert made > 40


def test_every_name_of_ours_on_the_page_for_those_from_pytorch_exists() -> None:
    text = (DOCS / "coming-from-pytorch.md").read_text()
    parts = {**PARTS, "evaluation": evaluation, "models": models, "training": training}
    named = re.findall(rf"(?<![\w.])({'|'.join(parts)})\.(\w+)", text)
    assert len(named) > 60
    for part, name in named:
        assert hasattr(parts[part], name), f"{part}.{name}"


def test_every_architecture_that_can_be_read_from_pytorch_is_on_the_page() -> None:
    text = (DOCS / "coming-from-pytorch.md").read_text()
    assert [name for name in LAYOUTS if f"`{name}`" not in text] == []


@pytest.mark.slow
@pytest.mark.usefixtures("default_promotion")
def test_training_on_ones_own_terms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run("training.md")
    for name in ("again", "from_file"):
        assert_close(names[name].state, names["tuned"].state)
    assert capsys.readouterr().out.split()[::2] == ["1", "2"]
    assert [int(names[run].state.step) for run in ("first", "streamed", "small")] == [4, 4, 8]
