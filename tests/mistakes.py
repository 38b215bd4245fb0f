"""Mistakes that newcomers make, each as the code they write, and what it tells them.

Run as a program, it writes docs/mistakes.md anew; tests/test_mistakes.py compares.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "mistakes.md"

SETUP = """
import jax
import jax.numpy as jnp
import numpy as np
from jaxrobust import (
    attacks,
    data,
    defenses,
    duals,
    evaluation,
    lagrangian,
    models,
    threats,
    training,
)

digits = data.load("digits", limit=64)
images, labels = np.asarray(data.to_float(digits.test.x[:16])), digits.test.y[:16]
network = models.build("mlp", 10, {"widths": (8,)})
model = models.from_linen(network)
variables = model.init(jax.random.key(0), images[:1])
f, image = model.logits_fn(variables), jnp.asarray(images[0])
threat = threats.Linf(0.1)
pgd = attacks.pgd(threat, step_size=0.02, steps=2)
key = jax.random.key(0)


def evaluate(model=model, variables=variables, x=images, y=labels, attack=pgd, **options):
    options = {"batch_size": 8, "progress": False, **options}
    return evaluation.evaluate(key, model, variables, (x, y), {"PGD": attack}, **options)


def fit(defense=defenses.erm(), model=model, rate=1e-3, **options):
    sgd = training.optimizer("sgd", rate)
    options = {"epochs": 1, "batch_size": 32, "run": "runs/mistake", **options}
    return training.fit(0, model, defense, digits, sgd, config={}, progress=False, **options)
"""
"""What the snippets share."""

HEAD = """# Mistakes and what they tell you

{count} mistakes that newcomers make, many of them habits from PyTorch, each with the message that
it gets. The table is made by running the code in it (`python tests/mistakes.py`), and a test runs
it again: a message here is the one that you see. Long lists of names are cut.

The snippets share this:

```python
{setup}
```

What no message can tell: a network that was trained on normalized images and is given raw ones
runs, and so does one that flattens its input and is given channels first. The clean accuracy shows
it: look at that first. Python itself suggests the nearest name for a misspelled function, as for
`attacks.auto_attack`.
"""

MISTAKES = {
    "Images and labels": [
        ("pixels from 0 to 255, as floats", "evaluate(x=255 * images)"),
        ("normalized images", "evaluate(x=(images - 0.5) / 0.5)"),
        ("integers that are no bytes", "evaluate(x=(255 * images).astype(np.int32))"),
        (
            "channels first",
            'conv = models.build("digits_cnn"); weights = conv.init(key, images); '
            "evaluate(conv, weights, images.transpose(0, 3, 1, 2))",
        ),
        ("NaN among the pixels", "evaluate(x=np.where(images > 0.9, np.nan, images))"),
        ("no images", "evaluate(x=images[:0], y=labels[:0])"),
        ("labels one-hot", "evaluate(y=np.eye(10)[labels])"),
        ("labels as floats", "evaluate(y=labels.astype(np.float32))"),
        ("labels that start at 1", "evaluate(y=labels + 1)"),
        ("fewer labels than images", "evaluate(y=labels[:5])"),
        ("a batch where one example belongs", "pgd(key, f, images, labels)"),
        ("a data set that is not prepared", 'data.load("mnist", data_dir="nowhere")'),
        ("a data set's name misspelled", 'data.load("cifar_10", data_dir="nowhere")'),
        ("more images held out than there are", 'data.load("digits", validation=5000)'),
    ],
    "Models": [
        ("a network of PyTorch", "import torch; evaluate(model=torch.nn.Linear(64, 10))"),
        ("the class in place of an instance", "evaluate(model=models.MLP)"),
        ("variables forgotten", "evaluate(variables=None)"),
        ("parameters without the outer dict", "evaluate(variables=variables.params)"),
        ("a train state as variables", "evaluate(variables=fit(run='runs/state').state)"),
        (
            "a function of one example, said to be one of batches",
            "evaluate(model=lambda z: z.reshape(-1)[:10], variables=None)",
        ),
        (
            "a model that returns [B]",
            "evaluate(model=lambda z: z.sum((1, 2, 3)), variables=None)",
        ),
        (
            "one output for two classes",
            "evaluate(model=lambda z: z.sum((1, 2, 3))[:, None], variables=None)",
        ),
        (
            "probabilities in place of logits",
            "evaluation.audit(lambda z: jax.nn.softmax(z.reshape(len(z), -1)[:, :10]), None, "
            "(images, labels), key=key, batch_size=8)[0]",
        ),
        (
            "fewer classes than labels",
            'small = models.build("mlp", 3); evaluate(small, small.init(key, images))',
        ),
        ("an architecture misspelled", 'models.build("resnet_18", 10)'),
        ("an option that the network has not", 'models.build("mlp", 10, {"width": 8})'),
        ("a checkpoint that is not there", 'models.from_torch_state_dict("best.pt", "resnet18")'),
        (
            "a checkpoint of another network",
            'models.from_torch_state_dict({"fc.weight": np.zeros((10, 64))}, "resnet18")',
        ),
        (
            "training a function without parameters",
            "fit(model=lambda z: z.reshape(len(z), -1)[:, :10])",
        ),
    ],
    "Sets and attacks": [
        (
            "eps = 8 for 8/255",
            "evaluate(attack=attacks.pgd(threats.Linf(8), step_size=2, steps=2))",
        ),
        ("a negative radius", "threats.Linf(-0.1)"),
        ("a radius as text", 'threats.Linf("8/255")'),
        ("lower and upper end swapped", "threats.Linf(0.1, lower=1.0, upper=0.0)"),
        ("a number where a set belongs", "attacks.pgd(0.1, step_size=0.02, steps=2)"),
        ("an attack misspelled", "attacks.auto_attack(threat)"),
        ("another library's option", "attacks.pgd(threat, alpha=0.02, steps=2)"),
        ("no steps", "attacks.pgd(threat, step_size=0.02, steps=0)"),
        ("a version of AutoAttack misspelled", 'attacks.autoattack(threat, version="Standard")'),
        ("an attack in a set without it", "attacks.apgd(threats.Wasserstein(0.1))"),
        (
            "the best or the last misspelled",
            'attacks.pgd(threat, step_size=0.02, steps=2, keep="final")',
        ),
        (
            "a seed for a key",
            "pair = (images, labels); "
            "evaluation.evaluate(0, model, variables, pair, {'PGD': pgd}, batch_size=8)",
        ),
        (
            "an attack without a name",
            "pair = (images, labels); "
            "evaluation.evaluate(key, model, variables, pair, pgd, batch_size=8)",
        ),
        ("an attack at no target", "attacks.targeted(pgd, targets=0)"),
    ],
    "Training": [
        ("DALE without its multiplier", "fit(defenses.dale(pgd, rho=0.2))"),
        (
            "a multiplier for a method without a constraint",
            "fit(multiplier=lagrangian.dual_ascent(0.1))",
        ),
        ("a set where the attack belongs", "defenses.dale(threat, rho=0.2)"),
        ("a batch larger than the data", "fit(batch_size=100)"),
        ("a batch that the devices do not share", "fit(batch_size=33)"),
        ("an optimizer misspelled", 'training.optimizer("adamm", 1e-3)'),
        ("a schedule misspelled", 'training.schedule("cosin", 0.1, 100)'),
        (
            "another setting in an old folder",
            'fit(run="runs/again"); fit(run="runs/again", batch_size=16)',
        ),
        ("a metric that nobody computes", 'fit(run="runs/best", best_by="robust_accuracy")'),
        ("a learning rate that blows up", "fit(batch_size=16, rate=1e30)"),
    ],
    "Certificates": [
        (
            "an activation without bounds",
            "duals.certify(lambda z: jnp.tan(f(z)), image, 0, threat)",
        ),
        ("bytes where floats belong", "duals.certify(f, digits.test.x[0], 0, threat)"),
        ("a set without bounds", "duals.certify(f, image, 0, threats.Wasserstein(0.1))"),
        ("a method misspelled", 'duals.certify(f, image, 0, threat, methods=("crowm",))'),
        (
            "two reports of different images",
            "proved = evaluation.certified(model, variables, (images[:8], labels[:8]), threat, "
            "batch_size=8, progress=False); evaluation.sandwich(evaluate(), proved)",
        ),
    ],
}


class Told(NamedTuple):
    """A mistake and what came of it."""

    mistake: str
    code: str
    message: str


LONGEST = 420


def told(code: str, names: dict) -> str:
    """What running the code says: its error, its warning, or the flag that it returns."""
    with warnings.catch_warnings(record=True) as seen, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        try:
            *before, last = code.split("; ")
            exec("; ".join(before), names)
            value = eval(last, names)
        except Exception as error:
            return in_a_cell(f"{type(error).__name__}: {error}")
    ours = [w for w in seen if w.category is UserWarning]
    if ours:
        return in_a_cell(f"UserWarning: {ours[0].message}")
    if hasattr(value, "message"):
        return in_a_cell(f"{value.severity}: {value.name}: {value.message}")
    raise AssertionError(f"nothing is said of {code}")


def in_a_cell(text: str) -> str:
    """One line, cut where it lists every name that there is."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 4] + " ..."


def every() -> Iterator[tuple[str, list[Told]]]:
    """Runs all of them, chapter by chapter."""
    names: dict = {}
    exec(SETUP, names)
    for chapter, mistakes in MISTAKES.items():
        yield chapter, [Told(mistake, code, told(code, names)) for mistake, code in mistakes]


def page() -> str:
    """docs/mistakes.md."""
    count = sum(map(len, MISTAKES.values()))
    text = HEAD.format(count=count, setup=SETUP.strip())
    for chapter, found in every():
        text += (
            f"\n## {chapter}\n\n| mistake | what you write | what you are told |\n|---|---|---|\n"
        )
        for row in found:
            cells = (row.mistake, *(f"`` {text} ``" for text in row[1:]))
            text += "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
    return text


if __name__ == "__main__":
    # A batch that does not divide over the devices needs some.
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    sys.path.insert(0, str(ROOT))
    os.chdir(tempfile.mkdtemp())
    PAGE.write_text(page())
