"""One process of a small training run; the tests start, kill and compare several of these.

    python fit_worker.py SETTINGS.json

Settings: `run` folder; `out`, a file for the final parameters and
multiplier; `history`, a file for the rows; `epochs`; `pause`, seconds added to every epoch; `stop`,
the epoch during whose validation the process ends; `work`, "fit" (default), "stream" or
"evaluate"; `process`, `processes` and `address` of the
coordinator, where there are several. `writes` is a file that lists what this process opened for
writing, renamed or made.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from training.training_cases import images, normalized, sgd

from jaxrobust import attacks, defenses, processes
from jaxrobust.evaluation import evaluate
from jaxrobust.lagrangian import pi
from jaxrobust.threats import Linf
from jaxrobust.training import fit, fit_stream
from jaxrobust.types import FunctionAttack, Variables

SETTINGS: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
WRITES: list[str] = []
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def note_writes(event: str, arguments: tuple) -> None:
    """An audit hook: what this process does to the run folder."""
    path = str(arguments[0]) if arguments else ""
    if not path.startswith(SETTINGS["run"]):
        return
    if event in ("os.mkdir", "os.rename", "os.remove") or (
        event == "open" and (arguments[2] or 0) & WRITING
    ):
        WRITES.append(f"{event} {path}")


def train() -> None:
    """Trains with DALE, which has everything: attack, multiplier, batch statistics."""
    calls = []

    def validate(variables: Variables) -> Mapping[str, float]:
        calls.append(1)
        time.sleep(SETTINGS.get("pause", 0.0))
        if len(calls) > SETTINGS.get("stop", 1_000_000):
            # The other processes stop here too; none may wait for another on the way out.
            sys.stdout.flush()
            os._exit(7)
        return {"spread": float(np.std(variables.params["Dense_1"]["kernel"]))}

    threat = Linf(0.1)
    state, history, best = fit(
        0,
        normalized(),
        defenses.dale(attacks.langevin(threat, step_size=0.05, steps=1, temperature=1e-3), rho=0.2),
        images(),
        sgd(),
        epochs=SETTINGS["epochs"],
        batch_size=16,
        run=SETTINGS["run"],
        config={"epochs": SETTINGS["epochs"]},
        multiplier=pi(0.1, proportional=2.0, initial=0.5),
        validate=validate,
        best_by="spread",
        progress=False,
    )
    leaves = [*jax.tree.leaves(state.variables), state.multiplier.value, state.step]
    leaves += [*jax.tree.leaves(state.opt_state), *jax.tree.leaves(best.variables)]
    np.savez(SETTINGS["out"], *map(np.asarray, leaves))
    Path(SETTINGS["history"]).write_text(json.dumps(history))


def wait(variables: Variables) -> Mapping[str, float]:
    """Validation that takes its time."""
    time.sleep(SETTINGS.get("pause", 0.0))
    return {"spread": float(np.std(variables.params["Dense_0"]["kernel"]))}


def stream() -> None:
    """Trains on batches from the host, in two phases."""
    from training.test_training_stream import FGSM, MODEL, TWO, Memory

    state, history, best = fit_stream(
        0, MODEL, FGSM, Memory(), sgd(),
        phases=TWO * (SETTINGS["epochs"] // 3), run=SETTINGS["run"], config={}, validate=wait,
        best_by="spread", progress=False,
    )  # fmt: skip
    leaves = [*jax.tree.leaves((state.variables, state.opt_state, best.variables)), state.step]
    np.savez(SETTINGS["out"], *map(np.asarray, leaves))
    Path(SETTINGS["history"]).write_text(json.dumps(history))


def slowly(key: Any, f: Any, x: Any, y: Any) -> Any:
    """PGD, after a rest that leaves its results alone."""
    rest = jax.pure_callback(lambda: time.sleep(SETTINGS["pause"]) or np.float32(0), jnp.float32(0))
    return attacks.pgd(Linf(0.1), step_size=0.02, steps=5)(key, f, x + rest, y)


def judge() -> None:
    """Attacks a network batch by batch."""
    model, data = normalized(), images(test=64)
    variables = model.init(jax.random.key(3), jnp.zeros((1, *data.shape)))
    suite = {"pgd": FunctionAttack(run=slowly)}
    report = evaluate(
        jax.random.key(0), model, variables, data.test, suite,
        batch_size=4, keep_examples=True, progress=False, folder=SETTINGS["run"],
    )  # fmt: skip
    found = report.attacks["pgd"]
    np.savez(SETTINGS["out"], report.clean, found.robust, found.margin, found.norm, found.examples)
    Path(SETTINGS["history"]).write_text("[]")


if __name__ == "__main__":
    sys.addaudithook(note_writes)
    if "address" in SETTINGS:
        processes.join(SETTINGS["address"], SETTINGS["processes"], SETTINGS["process"])
    {"fit": train, "stream": stream, "evaluate": judge}[SETTINGS.get("work", "fit")]()
    if "writes" in SETTINGS:
        Path(SETTINGS["writes"]).write_text("\n".join(WRITES))
