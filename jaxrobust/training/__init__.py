"""Training: state, a pure SPMD step, pmapped loops, schedules, checkpoints."""

from jaxrobust.training import writers
from jaxrobust.training.augment import compose, crop, crop_flip, cutout, flip
from jaxrobust.training.averaging import Averaged, averaged, averaging
from jaxrobust.training.checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    CheckpointError,
    restore,
    saved_variables,
)
from jaxrobust.training.early_stopping import Stop, collapsed, stalled
from jaxrobust.training.epochs import Run, Validate
from jaxrobust.training.initial import fitted
from jaxrobust.training.loop import fit, steps_per_epoch
from jaxrobust.training.optimizers import optimizer, weights_only
from jaxrobust.training.parallel import pmapped_step, pmapped_steps, replicate, unreplicate
from jaxrobust.training.reporting import Callback
from jaxrobust.training.schedules import SCHEDULES, schedule
from jaxrobust.training.state import TrainState, init_state
from jaxrobust.training.step import DEVICES, Augment, make_step
from jaxrobust.training.stream import Feed, Phase, fit_stream, phase_schedule

__all__ = [
    "BEST",
    "DEVICES",
    "LAST",
    "SCHEDULES",
    "Augment",
    "Averaged",
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "Feed",
    "Phase",
    "Run",
    "Stop",
    "TrainState",
    "Validate",
    "averaged",
    "averaging",
    "collapsed",
    "compose",
    "crop",
    "crop_flip",
    "cutout",
    "fit",
    "fit_stream",
    "fitted",
    "flip",
    "init_state",
    "make_step",
    "optimizer",
    "phase_schedule",
    "pmapped_step",
    "pmapped_steps",
    "replicate",
    "restore",
    "saved_variables",
    "schedule",
    "stalled",
    "steps_per_epoch",
    "unreplicate",
    "weights_only",
    "writers",
]
