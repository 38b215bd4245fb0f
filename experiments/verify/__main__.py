r"""Proves a trained model robust, image by image, or a property of an ONNX network.

    python -m experiments.verify --checkpoint runs/dale/digits-quick/pgd-seed0 --eps 0.05
    python -m experiments.verify --pretrained mnist_small_dual_linf_0.1 --pretrained-dir weights \
        --dataset mnist --eps 0.1 --limit 1000
    python -m experiments.verify --checkpoint RUN --eps 0.02 --exact 30
    python -m experiments.verify --onnx net.onnx --vnnlib property.vnnlib --timeout 60
    python -m experiments.verify --instances instances.csv

Prints the shares that are correct, unbroken by the attacks and certified, in this order, after
checking on every image that none is certified and broken. Of the competition's files, prints unsat
(verified), sat (a counterexample, which is written), unknown or timeout. Batches and answers are
saved when they end: run the same command again after an interruption.
"""

from __future__ import annotations

import time
from collections import Counter

import jax
import numpy as np
from rich.console import Console

from jaxrobust import checks, evaluation
from jaxrobust.evaluation import Sandwich

from ..common.attack_menu import listed, make_attacks, make_threat, number
from ..common.cli import command_line
from .competition import run_all, run_one
from .config import Config, default_folder
from .decide import Answer
from .exact import exact_line, settled


def main(config: Config) -> Sandwich | list[Answer]:
    """Verifies a model; or answers the competition's questions."""
    questions = config.questions()
    if config.instances is not None:
        return run_all(questions, config.answers())
    if questions:
        return [run_one(questions[0], config.answers())]
    return verify_model(config)


def verify_model(config: Config) -> Sandwich:
    """Verifies the model; writes and returns what is known of every image."""
    began = time.perf_counter()
    radius = number(config.eps)
    threat = make_threat(config.threat, radius)
    suite = make_attacks(listed(config.attacks), config.threat, radius, config.budget)
    checks.nonnegative("exact", config.exact)
    if config.exact and config.solver == "milp" and config.threat == "l2":
        raise ValueError("--solver milp solves linear programs, for linf and l1; l2 has none")
    trained, dataset = config.subject.load()
    examples = config.subject.examples(dataset)
    folder = config.out or default_folder(config, dataset)
    shared = {
        "batch_size": config.batch_size,
        "num_classes": dataset.num_classes,
        "progress": config.progress,
        "metadata": {
            "data": f"{dataset.label}, {config.subject.split}",
            "model": trained.name,
            "threat": f"{config.threat} {config.eps}",
            "seed": config.seed,
        },
    }
    subject = (trained.model, trained.variables, examples)
    attacked = evaluation.evaluate(
        jax.random.key(config.seed), *subject, suite, survivors=True, folder=folder / "attacks",
        **shared,
    )  # fmt: skip
    proved = evaluation.certified(
        *subject,
        threat,
        options={"methods": tuple(config.methods), "boxed": True, "chunk": config.rows},
        folder=folder / "certificates",
        **shared,
    )
    found = evaluation.sandwich(attacked, proved)
    if jax.process_index() == 0:
        console = Console()
        found.print()
        found.save(folder / "verified")
        if config.exact:
            rows = np.flatnonzero(found.undecided).tolist()
            answers = settled(
                folder,
                trained.model.logits_fn(trained.variables),
                examples,
                rows,
                threat,
                solver=config.solver,
                time_limit=config.exact,
                chunk=config.rows,
            )
            statuses = Counter(a.status for a in answers.values())
            console.print(exact_line(found, statuses, config.solver))
        console.print(f"wrote {folder / 'verified.md'}", soft_wrap=True)
        console.print(f"{time.perf_counter() - began:.0f} s on {jax.device_count()} device(s)")
    return found


if __name__ == "__main__":
    command_line(main, Config, __doc__)
