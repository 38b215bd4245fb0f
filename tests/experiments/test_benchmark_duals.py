"""The benchmark of duals: the PyTorch bound it compares with, and the command."""

import json
import runpy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import duals, peers, torch_duals
from experiments.benchmark.options import Run
from experiments.benchmark.subject import Subject
from jaxrobust.models.convnet import ConvNet
from jaxrobust.types import Model, Variables

SHAPE = (5, 6, 6, 1)
RADIUS = 0.05


@pytest.fixture(scope="module")
def target():
    """A small network whose second convolution leaves pixels unused, and five images."""
    random = np.random.default_rng(0)
    convs, widths = ((3, 3, 2), (4, 2, 2)), (5,)
    network = ConvNet(convs=convs, widths=widths, num_classes=3)
    x = random.uniform(size=SHAPE).astype(np.float32)
    variables = network.init(jax.random.key(0), jnp.asarray(x), train=False)
    params = jax.tree.map(
        lambda leaf: (1.5 * random.normal(size=leaf.shape) / np.sqrt(leaf[..., 0].size)).astype(
            np.float32
        ),
        variables["params"],
    )

    def apply(variables, x, **_):
        return network.apply({"params": variables.params}, x, train=False), ()

    model = Model(lambda key, x: Variables(params), apply)
    logits, _ = apply(Variables(params), jnp.asarray(x))
    y = np.array(jnp.argmax(logits, axis=1), np.int32)
    y[0] = (y[0] + 1) % 3  # wrong on the clean image
    return Subject(model, Variables(params), convs, widths, x, y, 3, "small")


@pytest.fixture(scope="module")
def certified(target):
    """Margins of both batch sizes and of the best of all methods."""
    config = duals.Config(images=5, epsilon=RADIUS, batches=(5, 1), torch_batches=(5, 1), rows=7)
    sides, _ = duals.entrants(config, target)
    return config, {side.name: (side, side.run()) for side in sides}


@pytest.mark.slow
def test_our_sides_agree_and_say_what_they_prove(target, certified):
    _, sides = certified
    first, found = sides["jaxrobust, batch 5"]
    assert found.shape == (5, 3)
    np.testing.assert_array_equal(found[np.arange(5), target.y], 0)
    figures = first.figures(found)
    proved = [
        all(m > 0 for j, m in enumerate(row) if j != y)
        for row, y in zip(found, target.y, strict=True)
    ]
    assert 0 < sum(proved) < 5
    assert (figures["images"], figures["certified %"]) == (5, 20.0 * sum(proved))
    assert figures["difference ppm"] == 0
    assert figures["MB / image"] > 0
    alone, single = sides["jaxrobust, batch 1"]
    np.testing.assert_allclose(single, found, atol=1e-5)
    assert [side.same for side, _ in sides.values()][:3] == [True, False, False]
    assert alone.figures(single + 1e-3)["difference ppm"] == pytest.approx(1e3, rel=0.05)
    assert np.mean(sides["jaxrobust, best of 3"][1]) > np.mean(found)


@pytest.mark.slow
def test_pytorch_has_the_same_bound(target, certified):
    torch = pytest.importorskip("torch")
    _, sides = certified
    truth = sides["jaxrobust, batch 5"][1]
    theirs = [found for name, (_, found) in sides.items() if name.startswith("PyTorch")]
    assert len(theirs) >= 2
    for found in theirs:
        # ours is lower by what float32 rounding could have taken
        np.testing.assert_allclose(found, truth, atol=1e-4)
        assert (found > truth - 2e-5).all()
    # sound, by the corners of the balls
    random = np.random.default_rng(1)
    corners = target.x + RADIUS * random.choice([-1.0, 1.0], (300, *SHAPE)).astype(np.float32)
    logits, _ = target.model.apply(target.variables, corners.reshape(-1, *SHAPE[1:]))
    logits = np.asarray(logits).reshape(300, 5, 3)
    own = np.take_along_axis(logits, target.y[None, :, None].astype(int), 2)
    assert np.all(theirs[0] <= (own - logits).min(axis=0) + 1e-6)
    part = torch_duals.Part([torch.nn.Tanh()], [(3,)])
    with pytest.raises(ValueError, match="no transpose of Tanh"):
        torch_duals.transposed(part, torch.zeros(1, 1, 3))


@pytest.mark.slow
def test_the_command_writes_a_table_and_its_summary(tmp_path, target, monkeypatch, capsys):
    monkeypatch.setattr(peers, "installed", lambda package: False)
    monkeypatch.setattr(Run, "subject", lambda self, images: target)
    monkeypatch.setattr(duals.duals, "METHODS", ("interval",))
    run = Run(repeats=1, out=tmp_path)
    (row,) = duals.main(duals.Config(images=5, batches=(5,), torch_batches=(5,), run=run))
    assert row["ours s"] > 0
    assert row["ratio"] is None
    folder = tmp_path / "duals-digits-5"
    assert json.loads((folder / "summary.json").read_text())["rows"] == [row]
    saved = json.loads((folder / "margins.json").read_text())
    assert [r["method"] for r in saved["rows"]] == ["jaxrobust, batch 5", "jaxrobust, best of 1"]
    for r in saved["rows"]:
        assert r["ms / image"] == pytest.approx(1e3 * r["seconds"] / 5)
    for absent in ("auto_LiRPA: skipped", "PyTorch: skipped, torch not installed"):
        assert absent in saved["title"]
    assert "certified %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 0}, "images must be"),
        ({"epsilon": 0.0}, "epsilon must be"),
        ({"batches": ()}, "--batches must name"),
        ({"batches": (4,)}, "--images 50 does not fill whole batches of 4"),
        ({"torch_batches": (0,)}, "torch_batches must be"),
        ({"rows": 0}, "rows must be"),
    ],
)
def test_mistakes_name_the_value(changes, message):
    with pytest.raises(ValueError, match=message):
        duals.main(duals.Config(**changes))


def test_the_commands_share_their_options_without_a_prefix(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark", "duals", "--repeats", "0", "--images", "50"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("experiments.benchmark", run_name="__main__")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: repeats must be")
