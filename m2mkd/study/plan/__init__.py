"""From experiments and a scale to the graph of runs: functions that add runs to a draft, from single teachers to whole experiments."""

from m2mkd.study.plan.build import build_study

__all__ = ["build_study"]
