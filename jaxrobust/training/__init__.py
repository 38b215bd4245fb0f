"""Training: state, a pure SPMD step, the pmapped loop, schedules, checkpoints."""

from jaxrobust.training.augment import compose, crop, crop_flip, flip
from jaxrobust.training.checkpoint import Checkpoint, CheckpointError
from jaxrobust.training.loop import Run, fit, steps_per_epoch
from jaxrobust.training.optimizers import optimizer, weights_only
from jaxrobust.training.parallel import pmapped_steps, replicate, unreplicate
from jaxrobust.training.schedules import SCHEDULES, schedule
from jaxrobust.training.state import TrainState, init_state
from jaxrobust.training.step import DEVICES, make_step

__all__ = [
    "DEVICES",
    "SCHEDULES",
    "Checkpoint",
    "CheckpointError",
    "Run",
    "TrainState",
    "compose",
    "crop",
    "crop_flip",
    "fit",
    "flip",
    "init_state",
    "make_step",
    "optimizer",
    "pmapped_steps",
    "replicate",
    "schedule",
    "steps_per_epoch",
    "unreplicate",
    "weights_only",
]
