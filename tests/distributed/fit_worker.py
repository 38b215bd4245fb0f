"""One process of a small training run; the tests start, kill and compare several of these.

    python fit_worker.py SETTINGS.json

Settings: `run` folder; `out`, a file for the final parameters and
multiplier; `history`, a file for the rows; `epochs`; `pause`, seconds added to every epoch; `stop`,
the epoch during whose validation the process ends; `process`, `processes` and `address` of the
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
import numpy as np
from training.training_cases import images, normalized, sgd

from jaxrobust import defenses
from jaxrobust.lagrangian import pi
from jaxrobust.threats import Linf
from jaxrobust.training import fit
from jaxrobust.types import Variables

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
        defenses.dale(threat, rho=0.2, step_size=0.05, steps=1, temperature=1e-3),
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


if __name__ == "__main__":
    sys.addaudithook(note_writes)
    if "address" in SETTINGS:
        jax.distributed.initialize(SETTINGS["address"], SETTINGS["processes"], SETTINGS["process"])
    train()
    if "writes" in SETTINGS:
        Path(SETTINGS["writes"]).write_text("\n".join(WRITES))
