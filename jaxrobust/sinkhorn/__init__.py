"""Transport of image mass within windows: local Wasserstein balls, projections, distances."""

from jaxrobust.sinkhorn.block_ascent import block_ascent
from jaxrobust.sinkhorn.conjugate import conjugate
from jaxrobust.sinkhorn.distance import Distance, distance
from jaxrobust.sinkhorn.dual import Duals
from jaxrobust.sinkhorn.exact import ExactProjection, exact_projection
from jaxrobust.sinkhorn.linear import Maximizer, linear_maximizer
from jaxrobust.sinkhorn.problem import Projection, ProjectionInfo
from jaxrobust.sinkhorn.projected import projected
from jaxrobust.sinkhorn.window import window
from jaxrobust.sinkhorn.wright_omega import wright_omega

__all__ = [
    "Distance",
    "Duals",
    "ExactProjection",
    "Maximizer",
    "Projection",
    "ProjectionInfo",
    "block_ascent",
    "conjugate",
    "distance",
    "exact_projection",
    "linear_maximizer",
    "projected",
    "window",
    "wright_omega",
]
