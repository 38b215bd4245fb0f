"""Clean and robust accuracy of a classifier over a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxrobust.attacks.batch import Box
from jaxrobust.devices import Device
from jaxrobust.evaluation.batched_pass import (
    AttackLike,
    Examples,
    attack_key,
    clean_pass,
    in_turn,
    prepare,
    progress_bars,
    restricted,
    scattered,
)
from jaxrobust.evaluation.report import AttackReport, Metadata, Report
from jaxrobust.evaluation.resume import guarded, journaled_pass, open_journal
from jaxrobust.files import PathLike
from jaxrobust.models import ModelLike
from jaxrobust.types import Key, PyTree


def evaluate(
    key: Key,
    model: ModelLike,
    variables: PyTree,
    examples: Examples,
    attacks: Mapping[str, AttackLike],
    *,
    batch_size: int,
    devices: Sequence[Device] | None = None,
    survivors: bool = False,
    keep_examples: bool = False,
    progress: bool = True,
    num_classes: int | None = None,
    box: Box | None = None,
    metadata: Metadata | None = None,
    folder: PathLike | None = None,
) -> Report:
    """Runs the model and every attack on every example; counts exactly.

    An example is clean-correct when its label's logit is strictly the largest, and robust under an
    attack when it is clean-correct and the attack did not succeed. NaN counts as wrong. The
    accuracies bound the true robust accuracy from above; their intersection, the per-example
    worst case, is the tightest of them.

    Results depend on the batch size and the number of devices only through float rounding. The
    randomness of an example comes from `key`, the attack's name and the example's index, so that
    other attacks beside it change nothing. One program is compiled per attack structure and reused
    over batches and calls; another radius, step size or set of weights does not recompile, a
    plain function made anew for each call does.

    With several processes every one of them calls this with the same arguments, data included,
    and gets the whole report.

    Args:
      key: the random key of the whole evaluation.
      model: the classifier, used in evaluation mode: a `Model`, a Flax linen or NNX module, an
        Equinox module, or a function of batches `[B, ...]` -> logits `[B, K]`; see
        `models.as_model`.
      variables: its numbers: `Variables`, a Flax dict {"params": ..., "batch_stats": ...}, or None
        for a function or module that holds its own; see `models.as_variables`.
      examples: (x, y), for example a `data.Split`: x `[N, ...]` uint8 images, sent to the devices
        as bytes and scaled there, or floats inside the pixel box; y `[N]` integers.
      attacks: by name; `Attack`s, or functions `(key, f, x, y) -> AttackResult` of one example.
        May be empty. Where their threat sets hold one number for each example, `[N]` or
        `[N, ...]`, every example is attacked within its own set.
      batch_size: examples at a time over all devices together; rounded up to a multiple of the
        number of devices.
      devices: to spread the examples over (default all).
      survivors: attack only examples that are clean-correct and that no attack before has broken,
        as AutoAttack does. Each robust accuracy then counts all attacks so far, and costs are
        averages over all examples.
      keep_examples: keep the points found (as many floats as the data per attack).
      progress: show a bar per pass on process 0.
      num_classes: the number of classes in the data, if known; it must be that of the model.
      box: lower and upper end of every input, (-inf, inf) for none (default: those of the attacks'
        threat sets, and (0, 1) without any).
      metadata: what to print and save beside the figures, such as {"data": ..., "model": ...}.
      folder: saves the results of every batch as soon as it ends and reads those already there, so
        that an interrupted call repeats one batch at most, and attacks may be added later. For one
        evaluation only, known by its weights, data, batch size, metadata (name there what of the
        model its weights do not show) and the settings and key of each attack; points kept are
        saved too. Several processes need one folder that all of them read.

    Returns:
      A `Report`: `clean`, bool `[N]`, tells what is classified correctly, and `attacks` holds an
      `AttackReport` by the name of each attack: whether examples are robust and points inside the
      set, bool `[N]`; distances in the threat's norm and margins in units of the logits, float64
      `[N]`, NaN for examples that `survivors` spared; mean numbers of passes; and the points
      `[N, ...]` with `keep_examples`, else None. Its `metadata` adds the devices, the batch size
      and the version of JAX to yours.

    Raises:
      TypeError: no model, or something else in the place of variables, key or named attacks; the
        message names the wrapper or the mend.
      ValueError: no variables where the model needs some, no examples, batch size below 1, inputs
        not finite or outside the box, labels of the wrong shape, type or range, a model of other
        than `num_classes` or below 2 classes;
        a folder of another evaluation, or attacks in it that only a running process can tell
        apart, such as lambdas.
      OSError: the folder cannot be written, or another process evaluates in it (BlockingIOError,
        see `locks.claimed`).
      SystemExit: SIGINT or SIGTERM came; the batches saved are safe, see `signals.stoppable`.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np
      >>> from jaxrobust import attacks, evaluation, models, threats
      >>> model = models.from_linen(models.build("mlp", 3, {"widths": (4,)}))
      >>> x, y = np.full((6, 2, 2, 1), 0.5, np.float32), np.arange(6, dtype=np.int32) % 3
      >>> variables = model.init(jax.random.key(0), jnp.asarray(x[:1]))
      >>> suite = {"PGD": attacks.pgd(threats.Linf(0.1), step_size=0.02, steps=5)}
      >>> key = jax.random.key(1)
      >>> report = evaluation.evaluate(
      ...     key, model, variables, (x, y), suite, batch_size=3, progress=False
      ... )
      >>> bool(report.worst_case.sum() <= report.clean.sum()), report.clean.shape
      (True, (6,))
    """
    if not isinstance(attacks, Mapping):
        raise TypeError(
            f'attacks are given by name, {{"PGD": attack}}; got {type(attacks).__name__}'
        )
    job = prepare(
        model,
        variables,
        examples,
        batch_size=batch_size,
        devices=devices,
        num_classes=num_classes,
        attacks=attacks.values(),
        box=box,
    )
    keyed = {name: (attack_key(key, name), attack) for name, attack in attacks.items()}
    outcomes = {}
    with guarded(folder, job) as check, progress_bars(progress, len(job.rows)) as bar:
        journal = None if folder is None else open_journal(folder, job, keyed, metadata)
        clean, clean_timing = clean_pass(job, in_turn(bar("clean"), check))
        standing = clean
        for name, (own_key, attack) in keyed.items():
            # Where nobody is left, one example keeps the report's shapes.
            kept = standing if standing.any() else np.arange(len(clean)) == 0
            result, timing = journaled_pass(
                journal,
                name,
                restricted(job, kept) if survivors else job,
                own_key,
                attack,
                keep_examples=keep_examples,
                tick=bar(name),
                check=check,
            )
            result = scattered(result, kept) if survivors else result
            standing = standing & ~result.success
            outcomes[name] = AttackReport(
                robust=standing if survivors else clean & ~result.success,
                inside=result.inside,
                norm=result.norm.astype(np.float64),
                margin=result.margin.astype(np.float64),
                forwards=float(result.forwards.mean()),
                backwards=float(result.backwards.mean()),
                timing=timing,
                examples=result.x,
                gradients=result.backwards,
            )
    about = {
        **(metadata or {}),
        "devices": f"{job.mesh.size} x {job.mesh.devices.flat[0].device_kind}",
        "batch size": job.rows.shape[1],
        "jax": jax.__version__,
    }
    return Report(clean=clean, clean_timing=clean_timing, attacks=outcomes, metadata=about)
