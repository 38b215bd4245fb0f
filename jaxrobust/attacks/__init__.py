"""Attacks on one example, `attack(key, f, x, y) -> AttackResult`; `batched` lifts them."""

from jaxrobust.attacks.apgd import apgd, sphere
from jaxrobust.attacks.apgd_l1 import apgd_l1, projected_normal
from jaxrobust.attacks.ascend import Ascent, Point, ascend, fooled, judge, objective
from jaxrobust.attacks.autoattack import autoattack
from jaxrobust.attacks.batch import batched, example_keys
from jaxrobust.attacks.beta import beta, multi_targeted, optimizer_steps, rmsprop, rmsprop_in_sqrt
from jaxrobust.attacks.boundary import boundary
from jaxrobust.attacks.carlini_wagner import carlini_wagner
from jaxrobust.attacks.carlini_wagner_linf import carlini_wagner_linf
from jaxrobust.attacks.ddn import ddn
from jaxrobust.attacks.deepfool import deepfool
from jaxrobust.attacks.elastic_net import elastic_net
from jaxrobust.attacks.expectation import expectation, expected
from jaxrobust.attacks.fab import fab
from jaxrobust.attacks.first_order import Keep, Start, first_order
from jaxrobust.attacks.fosc import fosc, fosc_at, fosc_box
from jaxrobust.attacks.fosc_stopped_pgd import fosc_stopped_pgd
from jaxrobust.attacks.frank_wolfe import frank_wolfe
from jaxrobust.attacks.growing import growing
from jaxrobust.attacks.langevin import langevin
from jaxrobust.attacks.lbfgs import lbfgs
from jaxrobust.attacks.msd import msd
from jaxrobust.attacks.n_fgsm import n_fgsm
from jaxrobust.attacks.noise import gaussian_noise, salt_and_pepper, uniform_noise
from jaxrobust.attacks.pgd import carlini_wagner_pgd, fgsm, momentum, pgd
from jaxrobust.attacks.pointwise import pointwise
from jaxrobust.attacks.spatial import spatial_grid, spatial_random
from jaxrobust.attacks.square import square
from jaxrobust.attacks.starts import clean, gaussian, unclipped, uniform
from jaxrobust.attacks.transfer import transfer
from jaxrobust.attacks.transforms import add_noise, normalize_by_l1, scale_by_steepest
from jaxrobust.attacks.wrappers import restarts, targeted, worst, worst_of

__all__ = [
    "Ascent",
    "Keep",
    "Point",
    "Start",
    "add_noise",
    "apgd",
    "apgd_l1",
    "ascend",
    "autoattack",
    "batched",
    "beta",
    "boundary",
    "carlini_wagner",
    "carlini_wagner_linf",
    "carlini_wagner_pgd",
    "clean",
    "ddn",
    "deepfool",
    "elastic_net",
    "example_keys",
    "expectation",
    "expected",
    "fab",
    "fgsm",
    "first_order",
    "fooled",
    "fosc",
    "fosc_at",
    "fosc_box",
    "fosc_stopped_pgd",
    "frank_wolfe",
    "gaussian",
    "gaussian_noise",
    "growing",
    "judge",
    "langevin",
    "lbfgs",
    "momentum",
    "msd",
    "multi_targeted",
    "n_fgsm",
    "normalize_by_l1",
    "objective",
    "optimizer_steps",
    "pgd",
    "pointwise",
    "projected_normal",
    "restarts",
    "rmsprop",
    "rmsprop_in_sqrt",
    "salt_and_pepper",
    "scale_by_steepest",
    "spatial_grid",
    "spatial_random",
    "sphere",
    "square",
    "targeted",
    "transfer",
    "unclipped",
    "uniform",
    "uniform_noise",
    "worst",
    "worst_of",
]
