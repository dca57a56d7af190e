"""The graph of runs of a study: one layer of its builder a file, from what all runs are made of to whole experiments."""

from m2mkd.study.plan.build import build_study
from m2mkd.study.plan.parts import resolve_data

__all__ = ["build_study", "resolve_data"]
