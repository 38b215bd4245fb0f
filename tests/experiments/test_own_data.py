"""One's own data and one's own runs on the command line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from evaluate_cases import changed, config_of
from PIL import Image

from experiments.common.options import Options
from experiments.common.recipes import DIGITS, RAW
from experiments.common.recipes import QUICK as RECIPES
from experiments.common.runner import network
from experiments.common.trained import Network, from_run
from experiments.evaluate.__main__ import main as evaluate
from experiments.methods.__main__ import main as study
from experiments.methods.config import Config as Study
from jaxrobust import data, models, training
from jaxrobust.evaluation import Report

# The scripts run under JAX's defaults: Adam's bias correction promotes dtypes.
pytestmark = pytest.mark.usefixtures("default_promotion")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz file of made-up images."""
    made = data.load("synthetic")
    file = tmp_path_factory.mktemp("data") / "blobs.npz"
    np.savez(
        file, x_train=made.train.x, y_train=made.train.y, x_test=made.test.x, y_test=made.test.y
    )
    return file


def test_own_data_takes_the_recipe_of_the_data_set_named(own: Path, tmp_path: Path) -> None:
    options = Options(data=own, eps="51/510", validation=40, limit=300, out=tmp_path)
    settings = options.recipe(RECIPES)
    assert settings == dataclasses.replace(
        DIGITS, epsilon=0.1, step_size=0.025, eval_step_size=0.01, validation=40
    )
    dataset = options.load(settings)
    assert (dataset.name, dataset.train.size, dataset.validation.size) == ("blobs", 300, 40)
    assert options.folder("dale") == tmp_path / "blobs-quick"
    assert options.about("dale", "DALE")["dataset"] == "blobs"
    assert options.identity()["data"] == "blobs.npz"
    color = Options(data=own, dataset="cifar10").recipe(RECIPES)
    assert color.model == "preact_resnet18"
    assert "data" not in Options().identity()


@pytest.mark.parametrize("vectors", [True, False])
def test_vectors_need_a_network_of_vectors(tmp_path: Path, vectors: bool) -> None:
    x = np.random.default_rng(0).random((60, 3) if vectors else (60, 3, 3, 3))
    np.savez(tmp_path / "few.npz", x=x, y=np.arange(60) % 2)
    plain = Options(data=tmp_path / "few.npz", validation=0)
    dense = dataclasses.replace(plain, model="mlp")
    dataset = dense.load(dense.recipe(RECIPES))
    assert dataset.shape == x.shape[1:]
    # Three features are no colors.
    model = network("mlp", "float32", dataset)
    assert model is network("mlp", "float32", dataset, {} if vectors else RAW) or not vectors
    if vectors:
        with pytest.raises(ValueError, match=r"few\.npz holds vectors, .* 'digits_cnn' does"):
            plain.load(plain.recipe(RECIPES))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"data": Path("nowhere.npz")},
            FileNotFoundError,
            "--data: there is no file or folder no",
        ),
        ({"image_size": 8}, ValueError, "--image-size scales a folder of images, and .* is a file"),
        ({"eps": "8/"}, ValueError, "eps must be a number such as 0.3 or 8/255, got '8/'"),
        ({"validation": 512}, ValueError, "validation=512 leaves no training images: 'blobs'"),
    ],
)
def test_mistakes_are_named(
    own: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    options = Options(**{"data": own, **changes})
    with pytest.raises(error, match=message):
        options.load(options.recipe(RECIPES))


@pytest.mark.slow
def test_a_study_trains_on_own_data_and_its_run_is_evaluated_there(
    own: Path, tmp_path: Path
) -> None:
    options = Options(
        data=own, seeds=(0,), epochs=1, limit=128, validation=0, model="mlp", autoattack=0,
        eps="0.05", out=tmp_path, progress=False,
    )  # fmt: skip
    (row,) = study(Study(options=options, methods=("erm",)))
    run = tmp_path / "blobs-quick" / "erm-seed0"
    config = config_of(
        checkpoint=run, data=own, eps="0.05", attacks=("fgsm",), out=tmp_path / "evaluated",
        progress=False,
    )  # fmt: skip
    report = evaluate(config)
    assert report.count == 128
    assert row["Clean"] == report.clean_accuracy
    with pytest.raises(ValueError, match=r"trained on your own data, blobs.npz: give it with -"):
        evaluate(changed(config, data=None))


def test_a_folder_of_images_is_evaluated(tmp_path: Path) -> None:
    made = data.load("synthetic", limit=40)
    for number, (x, y) in enumerate(zip(*made.train, strict=True)):
        place = tmp_path / "pictures" / f"class{y}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[..., 0]).resize((16, 12)).save(place / f"{number}.png")
    options = Options(data=tmp_path / "pictures", image_size=8, validation=4)
    dataset = options.load(options.recipe(RECIPES))
    assert (dataset.shape, dataset.test.size, dataset.validation.size) == ((8, 8, 1), 8, 4)
    assert options.identity()["image_size"] == 8


def test_a_run_of_ones_own_call_is_evaluated(
    tiny_run: tuple[Path, training.Run], tmp_path: Path
) -> None:
    folder, run = tiny_run
    config = config_of(
        checkpoint=folder,
        architecture="mlp",
        architecture_options=("widths=[8]",),
        limit=32,
        attacks=("fgsm",),
        out=tmp_path,
        progress=False,
        save_examples=True,
    )
    report = evaluate(config)
    points = Report.load(tmp_path / "report").attacks["fgsm"].examples
    np.testing.assert_array_equal(points, report.attacks["fgsm"].examples)
    assert np.isfinite(points[report.clean]).all()
    digits = data.load("digits", limit=32).test
    model = models.from_linen(models.build("mlp", 10, {"widths": (8,)}))
    logits, _ = model.apply(
        run.state.variables, data.to_inputs(digits.x), train=False, key=None, axes=()
    )
    np.testing.assert_array_equal(report.clean, np.asarray(logits.argmax(-1)) == digits.y)
    assert report.metadata["model"] == "mlp of readme, last epoch, widths (8,)"
    assert json.loads((tmp_path / "report.json").read_text())["metadata"]["data"].startswith("Dig")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architecture": None},
            "does not tell which network was trained: give it with --architecture NAME",
        ),
        ({"architecture": "mpl"}, r"unknown network 'mpl'; did you mean 'mlp'\?"),
        ({}, r"'mlp' on 'digits': .* params\['dense1'\]\['bias'\] is float32\[256\]"),
        (
            {"architecture_options": ("widths",)},
            "are NAME=VALUE, such as .* got 'widths'",
        ),
        ({"architecture_options": ("depth=3",)}, "network 'mlp' has no option 'depth'"),
        (
            {"architecture": None, "architecture_options": ("a=3",)},
            "of --architecture, which is missing",
        ),
        ({"split": "train"}, "does not tell how many training images it held out: .*--validation"),
        (
            {"architecture": "digits_cnn", "dataset": "synthetic"},
            "does not fit the network 'dig",
        ),
    ],
)
def test_what_a_run_does_not_tell_is_asked_for(
    tiny_run: tuple[Path, training.Run], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = config_of(
        checkpoint=tiny_run[0], architecture="mlp", out=tmp_path / "out", progress=False
    )
    errors = (ValueError, training.CheckpointError)
    with pytest.raises(errors, match=message):
        evaluate(changed(config, **changes))
    assert not (tmp_path / "out").exists()


def test_held_out_images_are_told_where_the_run_does_not(
    tiny_run: tuple[Path, training.Run],
) -> None:
    config = config_of(
        checkpoint=tiny_run[0],
        architecture="mlp",
        architecture_options=("widths=[8]",),
        split="validation",
        validation=100,
    )
    trained, dataset = config.subject.load()
    assert dataset.validation.size == 100
    jax.tree.map(np.testing.assert_array_equal, trained.variables, tiny_run[1].state.variables)


def test_a_run_that_tells_its_network_takes_no_other(tmp_path: Path) -> None:
    recipe = {"model": "mlp", "dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps({"dataset": "digits", "recipe": recipe}))
    digits = data.load("digits", limit=1)
    with pytest.raises(ValueError, match="tells its network, 'mlp': leave --architecture away"):
        from_run(tmp_path, "last", digits, Network("mlp", {}))
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "of my own"}))
    with pytest.raises(ValueError, match="give it with --architecture NAME"):
        from_run(tmp_path, "last", digits)
    (tmp_path / "config.json").write_text(json.dumps({"recipe": {"model": "mlp"}}))
    with pytest.raises(ValueError, match="holds a recipe without 'dtype'"):
        from_run(tmp_path, "last", digits)
