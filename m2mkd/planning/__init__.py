"""FLOPs, GPU-hours, memory and storage of a study, before anything runs."""

from m2mkd.planning.cost import Assumptions, Cost, cost_of

__all__ = ["Assumptions", "Cost", "cost_of"]
