"""Threat models: the set of points an adversary may move one example to."""

from jaxrobust.threats.extremes import extreme
from jaxrobust.threats.l1 import L1
from jaxrobust.threats.l2 import L2
from jaxrobust.threats.linf import Linf
from jaxrobust.threats.spatial import Placed, Spatial
from jaxrobust.threats.union import Union
from jaxrobust.threats.wasserstein import Wasserstein

__all__ = ["L1", "L2", "Linf", "Placed", "Spatial", "Union", "Wasserstein", "extreme"]
