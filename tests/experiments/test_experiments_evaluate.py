"""The evaluation script on a few digits, and the menu of attacks that it offers."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluate_cases import changed, config_of

from experiments.common.attack_menu import MENU, NORMS, Budget, listed, make_attacks, number
from experiments.common.cli import command_line
from experiments.common.recipes import recipe
from experiments.common.runner import study
from experiments.common.trained import from_run
from experiments.evaluate.__main__ import main
from experiments.evaluate.config import Config, default_folder
from experiments.evaluate.plots import draw_grid
from jaxrobust import data, defenses, training
from jaxrobust.evaluation import Report, resume
from jaxrobust.fingerprint import describe
from jaxrobust.models import build
from jaxrobust.models.torch_layouts import LAYOUTS
from jaxrobust.training.folder import begin, identify
from jaxrobust.types import Attack, Variables

# The scripts run under JAX's defaults: Adam's bias correction promotes dtypes.
pytestmark = pytest.mark.usefixtures("default_promotion")

# Options of the network must reach the one that is rebuilt.
SETTINGS = recipe("digits", "quick", model="mlp", model_options={"widths": (300, 200)})

NARROW = Path(__file__).parents[1] / "models" / "data" / "resnet_narrow.pt"
"""A checkpoint of PyTorch with 5 classes."""
TORCH = {
    "checkpoint": None,
    "torch_checkpoint": NARROW,
    "architecture": "resnet18",
    "architecture_options": ("features=(4, 6)", "blocks=1"),
    "dataset": "digits",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder as `training.fit` leaves it, and its variables: random features, fitted."""
    folder = tmp_path_factory.mktemp("runs") / "erm-seed0"
    settings = SETTINGS
    digits = data.load("digits", validation=settings.validation)
    shared = study(settings, digits)
    image = jnp.zeros((1, *digits.shape))
    state = training.init_state(
        jax.random.key(0), shared.model, defenses.erm(), shared.optimizer, None, image
    )
    params = jax.tree.map(np.asarray, state.variables.params)
    *hidden, last = sorted(params)
    features = digits.train.x.reshape(digits.train.size, -1) / 255
    for name in hidden:
        features = np.maximum(features @ params[name]["kernel"] + params[name]["bias"], 0)
    fitted = np.linalg.lstsq(features, np.eye(10)[digits.train.y])[0]
    params[last]["kernel"] = fitted.astype(np.float32)
    state = state._replace(variables=Variables(params, state.variables.stats))
    training.checkpoint.save(folder, training.LAST, state, [])
    config = {"dataset": "digits", "recipe": dataclasses.asdict(settings)}
    begin(folder, identify(config, {}), [])
    return folder, state.variables


def small(trained, out, **changes) -> Config:
    settings = {
        "checkpoint": trained[0],
        "limit": 24,
        "eps": "51/255",
        "attacks": ("fgsm,pgd",),
        "budget": Budget(steps=3),
        "batch_size": 8,
        "out": out,
        "progress": False,
    }
    return config_of(**(settings | changes))


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_writes_everything(
    trained, tmp_path, monkeypatch, capsys
):
    options = {"grid": 3, "curve": ("0.02 0.1", "51/255"), "curve_attack": "deepfool"}
    computed, real = [], resume.attack_pass

    def killed(job, **passed):
        if len(computed) == 4:
            raise KeyboardInterrupt
        computed.append(1)
        return real(job, **passed)

    monkeypatch.setattr(resume, "attack_pass", killed)
    with pytest.raises(KeyboardInterrupt):
        main(small(trained, tmp_path, **options))
    assert not (tmp_path / "report.json").exists()
    monkeypatch.setattr(resume, "attack_pass", lambda *a, **k: computed.append(1) or real(*a, **k))
    report = main(small(trained, tmp_path, **options))
    # The digits that FGSM leaves take PGD at most 3 batches; the curve takes 3.
    assert len(computed) == 3 + report.attacks["pgd"].timing.batches + 3

    assert list(report.attacks) == ["fgsm", "pgd"]
    digits = data.load("digits", limit=24).test
    logits, _ = study(SETTINGS, data.load("digits")).model.apply(
        trained[1], np.float32(digits.x) / 255, train=False, key=None, axes=()
    )
    np.testing.assert_array_equal(report.clean, np.asarray(logits.argmax(-1)) == digits.y)
    assert report.clean_accuracy > report.worst_case_accuracy
    loaded = Report.load(tmp_path / "report")
    np.testing.assert_array_equal(loaded.worst_case, report.worst_case)
    flags = json.loads((tmp_path / "flags.json").read_text())
    assert all(set(flag) == {"name", "message", "severity"} for flag in flags)
    assert (tmp_path / "grid.png").stat().st_size > 1000
    assert (tmp_path / "curve.png").stat().st_size > 1000
    shown = capsys.readouterr().out
    assert "linf 51/255" in shown
    assert "Other batches (s)" in shown  # not cut, though this is no terminal
    assert all(flag["message"] in shown for flag in flags)

    with pytest.raises(ValueError, match=r"attacks.pgd.steps: 3 there, 4 here"):
        main(small(trained, tmp_path, budget=Budget(steps=4)))


def test_the_grid_shows_what_the_strongest_attack_broke(trained, tmp_path):
    digits = data.load("digits", limit=24)
    model = from_run(trained[0], "last", digits)
    suite = ("noise", "fgsm")
    report = main(small(trained, tmp_path, grid=4, attacks=suite, individually=True))
    assert all(np.isfinite(a.norm).all() for a in report.attacks.values())
    broken = report.clean & ~report.attacks["fgsm"].robust
    assert broken.sum() > (report.clean & ~report.attacks["noise"].robust).sum()
    drawn = draw_grid(report, model, digits.test, 4)
    titles = [panel.get_title() for panel in drawn.axes]
    labels = [int(t.split()[1]) for t in titles if t.startswith("label")]
    predicted = [int(t.split()[1]) for t in titles if t.startswith("predicted")]
    assert labels == digits.test.y[np.flatnonzero(broken)[:4]].tolist()
    assert len(predicted) == 4
    assert all(a != b for a, b in zip(labels, predicted, strict=True))
    assert draw_grid(dataclasses.replace(report, attacks={}), model, digits.test, 4) is None


def test_the_rebuilt_model_is_the_trained_one(trained):
    found = from_run(trained[0], "last", data.load("digits", limit=1))
    chex.assert_trees_all_equal(found.variables, trained[1])
    assert found.name == "mlp of erm-seed0, last epoch, float32"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attacks": ("fgsm,pdg",)}, r"unknown attack 'pdg'; did you mean 'pgd'\?"),
        ({"attacks": ("ddn",)}, r"'ddn' is defined for l2 only; for linf there are: .*apgd-ce.*"),
        ({"attacks": ("fgsm", "fgsm")}, "attacks holds a name twice: fgsm fgsm"),
        ({"attacks": ("autoattack,autoattack-plus",)}, "autoattack-plus holds APGD-CE, "),
        ({"eps": "8/"}, r"eps must be a number such as 0.3 or 8/255, got '8/'"),
        ({"eps": "-0.1"}, "eps must be finite and at least 0"),
        ({"curve": ("0.1,o.2",)}, "curve must be a number .* got 'o.2'"),
        ({"curve": ("0.1",), "curve_attack": "autoattack"}, "suite, which draws no curve"),
        ({"budget": Budget(steps=0)}, "steps must be a whole number of at least 1, got 0"),
        ({"grid": -1}, "grid"),
        ({"checkpoint": None}, "one of --checkpoint RUN, --pretrained NAME and --torch-checkp"),
        ({"pretrained": "mnist_small_standard"}, "one of --checkpoint RUN, --pretrained NAME and"),
        ({"torch_checkpoint": NARROW, "architecture": "resnet18"}, "one of --checkpoint RUN, --"),
        ({"checkpoint": None, "torch_checkpoint": NARROW}, "FILE needs --architecture NAME"),
        ({"architecture": "mlp"}, "tells its network, 'mlp': leave --architecture away"),
        ({"mean": (0.5,)}, "--mean, --std and --entry need --torch-checkpoint"),
        ({"architecture_options": ("a=1",)}, "those of --architecture, which is missing"),
        (
            {"checkpoint": None, "pretrained": "x", "architecture": "mlp"},
            "--pretrained tells its network: leave --architecture away",
        ),
        ({"checkpoint": None, "pretrained": "x"}, "do not name the data: give --dataset"),
        (TORCH | {"dataset": None}, "do not name the data: give --dataset"),
        (TORCH | {"architecture": "resnet_18"}, "unknown architecture 'resnet_18'; did you mean"),
        (TORCH, "resnet_narrow.pt is of 5 classes, not of num_classes=10"),
        (TORCH | {"architecture_options": ("blocks",)}, "NAME=VALUE, .* got 'blocks'"),
        (TORCH | {"torch_checkpoint": Path("none.pt")}, "no weights at none.pt"),
        ({"checkpoint": None, "pretrained": "x", "dataset": "digits"}, "no weights at x.npz"),
        (
            {"checkpoint": None, "pretrained": "x", "dataset": "digits", "split": "validation"},
            "held out no training images",
        ),
        ({"select": "best"}, "holds no 'best' checkpoint"),
        (
            {"dataset": "synthetic"},
            r"does not fit the network 'mlp' on 'synthetic': .* is float32\[4\] in the model",
        ),
    ],
)
def test_mistakes_name_the_value(trained, tmp_path, changes, message):
    errors = (ValueError, FileNotFoundError, training.CheckpointError)
    with pytest.raises(errors, match=message):
        main(small(trained, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_folders_that_hold_no_run_are_named(trained, tmp_path):
    digits = data.load("digits", limit=1)
    with pytest.raises(FileNotFoundError, match=r"there are runs in: .*erm-seed0"):
        from_run(trained[0].parent, "last", digits)
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(ValueError, match=r"config\.json holds no JSON object"):
        from_run(tmp_path, "last", digits)


def test_numbers_and_lists_as_people_type_them():
    assert number("8/255") == 8 / 255
    assert number(" 1e-3 ") == 1e-3
    assert number("2") == 2.0
    for text in ("", "1/0", "nan", "inf", "8/255/2", "1e999"):
        with pytest.raises(ValueError, match="number"):
            number(text)
    assert listed(("fgsm,pgd", "square", " a, b,")) == ["fgsm", "pgd", "square", "a", "b"]


def test_every_item_of_the_menu_can_be_made_and_resumed():
    for norm in NORMS:
        names = [name for name, item in MENU.items() if norm in item.norms]
        for name in names:
            suite = make_attacks([name], norm, 0.3, Budget(steps=7, queries=9, chunk=2))
            for attack in suite.values():
                assert isinstance(attack, Attack)
                text = json.dumps(describe(attack))
                assert f'"kind": "{NORMS[norm].__name__}"' in text
                assert '"radius": 0.3' in text
            if not name.startswith("autoattack"):
                assert '"steps": 7' in text or "steps" not in text or name == "fgsm"
        assert len(make_attacks(["autoattack"], norm, 0.3, Budget())) == 4


def test_step_sizes_follow_the_radius_unless_given():
    sizes = {
        name: make_attacks([name], "linf", 0.5, Budget(steps=10))[name].settings
        for name in ("pgd", "cw-pgd")
    }
    assert all(s["step_size"] == pytest.approx(0.125) for s in sizes.values())
    given = make_attacks(["pgd"], "linf", 0.5, Budget(step_size=0.01))["pgd"].settings
    assert (given["step_size"], given["steps"]) == (0.01, 50)


def test_folders_tell_evaluations_apart(trained):
    digits = data.load("digits", limit=1)
    config = small(trained, None)
    changes = [
        {},
        {"eps": "0.1"},
        {"threat": "l2"},
        {"split": "train"},
        {"limit": 9},
        {"individually": True},
        {"select": "best"},
        {"checkpoint": None, "pretrained": "weights/wong.npz"},
        TORCH,
        TORCH | {"architecture": "preact_resnet18"},
        # Runs of two studies share their last name.
        {"checkpoint": Path("runs/dale/digits-quick/pgd-seed0")},
        {"checkpoint": Path("runs/fosc/digits-quick/pgd-seed0")},
    ]
    folders = {default_folder(changed(config, **c), digits) for c in changes}
    assert len(folders) == len(changes)
    assert all(folder.parent == Path("runs/evaluate") for folder in folders)


@pytest.mark.slow
def test_released_weights(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(shared / "tensorflow_datasets"))
    options = {
        "checkpoint": None,
        "pretrained": "mnist_small_standard",
        "pretrained_dir": shared / "pretrained",
        "limit": 16,
        "eps": "0.3",
        "attacks": ("fgsm",),
        "out": tmp_path,
        "progress": False,
    }
    report = main(config_of(dataset="mnist", **options))
    assert report.count == 16
    assert report.clean_accuracy > 90 > 50 > report.attacks["fgsm"].accuracy
    with pytest.raises(ValueError, match=r"does not take the images of 'digits', of shape \(8, 8"):
        main(config_of(dataset="digits", **options))


@pytest.mark.slow
def test_weights_of_pytorch(tmp_path):
    """A network's own weights, under PyTorch's names and in its layout."""
    options = {"features": (4, 6), "blocks": 1}
    module, digits = build("resnet18", 10, options), data.load("digits", limit=24)
    x = np.float32(digits.test.x) / 255
    variables = module.init(jax.random.key(0), x)
    names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    state = {}
    for collection in variables.values():
        for layer, leaves in collection.items():
            for leaf, array in leaves.items():
                name = f"{LAYOUTS['resnet18'].theirs(layer)}.{names.get(leaf, leaf)}"
                axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim]
                state[name] = np.asarray(array).transpose(axes)
    np.savez(tmp_path / "net.npz", **state)
    settings = {
        "torch_checkpoint": tmp_path / "net.npz",
        "architecture": "resnet18",
        "architecture_options": ("features=(4, 6)", "blocks=1"),
        "limit": 24,
        "eps": "51/255",
        "attacks": ("fgsm",),
        "batch_size": 8,
        "progress": False,
    }
    found = {}
    for mean, std in ((None, None), (0.5, 0.25)):
        given = {} if mean is None else {"mean": (mean,), "std": (std,)}
        out = tmp_path / str(mean)
        found[mean] = main(config_of(dataset="digits", out=out, **settings, **given))
        seen = x if mean is None else (x - mean) / std
        predicted = np.asarray(module.apply(variables, seen).argmax(-1))
        np.testing.assert_array_equal(found[mean].clean, predicted == digits.test.y)
    assert (found[None].clean != found[0.5].clean).any()
    told = r"resnet18 of net\.npz \(SHA-256 \w{12}\), features \(4, 6\), blocks 1"
    assert re.fullmatch(told, found[None].metadata["model"])
    # Results of the same weights behind another normalization are those of another model.
    with pytest.raises(ValueError, match=r"mean \(0\.4,\)"):
        main(
            config_of(dataset="digits", out=tmp_path / "0.5", **settings, mean=(0.4,), std=(0.25,))
        )
    del state["linear.bias"], state["bn1.bias"]
    np.savez(tmp_path / "net.npz", **state)
    with pytest.raises(ValueError, match=r"net\.npz does not hold a resnet18: missing: bn1\.bias"):
        main(config_of(dataset="digits", out=tmp_path / "none", **settings))


def test_options_of_a_pytorch_network_as_people_type_them(monkeypatch, capsys):
    line = "evaluate --torch-checkpoint none.pt --architecture preact_resnet18 --dataset digits "
    line += "--architecture-options shortcut=raw blocks=1 --mean 0.5 0.4 0.3 --std 0.2 0.2 0.2"
    seen = []
    monkeypatch.setattr(sys, "argv", line.split())
    command_line(seen.append, Config, None)
    assert seen[0].subject.architecture_options == ("shortcut=raw", "blocks=1")
    assert seen[0].subject.mean == (0.5, 0.4, 0.3)
    with pytest.raises(SystemExit):
        command_line(main, Config, None)
    assert "error: no weights at none.pt" in capsys.readouterr().err


def test_the_command_ends_a_mistake_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", "--pretrained", "x", "--attacks", "pdg,fgsm"])
    with pytest.raises(SystemExit) as ended:
        command_line(main, Config, None)
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: unknown attack 'pdg'; did you mean 'pgd'? Known: apgd-ce,")
    assert len(shown.strip().splitlines()) == 1
