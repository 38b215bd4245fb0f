r"""Proves a trained model robust, image by image: certified, attacked, and exact where asked.

    python -m experiments.verify --checkpoint runs/dale/digits-quick/pgd-seed0 --eps 0.05
    python -m experiments.verify --pretrained mnist_small_dual_linf_0.1 --pretrained-dir weights \
        --dataset mnist --eps 0.1 --limit 1000
    python -m experiments.verify --checkpoint RUN --eps 0.02 --exact 30

Prints the shares that are correct, unbroken by the attacks and certified, in this order, after
checking on every image that none is certified and broken. Batches and answers are saved when they
end: run the same command again after an interruption.
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
from ..common.integer_programs import verdicts
from .config import Config, default_folder


def main(config: Config) -> Sandwich:
    """Verifies the model; writes and returns what is known of every image."""
    began = time.perf_counter()
    radius = number(config.eps)
    threat = make_threat(config.threat, radius)
    suite = make_attacks(listed(config.attacks), config.threat, radius, config.budget)
    checks.nonnegative("exact", config.exact)
    if config.exact and config.threat == "l2":
        raise ValueError("--exact solves linear programs, for linf and l1; l2 has none")
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
        options={"methods": tuple(config.methods), "boxed": True, "chunk": config.chunk},
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
            answers = verdicts(
                # another limit may settle what this one leaves open
                folder / f"exact-{config.exact:g}s.json",
                trained.model.logits_fn(trained.variables),
                examples,
                rows,
                threat,
                time_limit=config.exact,
                chunk=config.chunk,
            )
            console.print(exact_line(found, Counter(a.status for a in answers.values())))
        console.print(f"wrote {folder / 'verified.md'}", soft_wrap=True)
        console.print(f"{time.perf_counter() - began:.0f} s on {jax.device_count()} device(s)")
    return found


def exact_line(found: Sandwich, answers: Counter[str]) -> str:
    """What the integer programs settled, and what robust accuracy lies between then."""
    count = len(found.clean)
    lower = 100 * (found.certified.sum() + answers["certified"]) / count
    upper = 100 * (found.attacked.sum() - answers["broken"]) / count
    told = ", ".join(f"{answers[name]} {name}" for name in ("certified", "broken", "undecided"))
    return f"integer programs: {told}; robust accuracy from {lower:.2f} to {upper:.2f} %"


if __name__ == "__main__":
    command_line(main, Config, __doc__)
