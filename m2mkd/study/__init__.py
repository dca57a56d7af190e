"""Resolved runs: their keys, the graph that they form, its plan as files, and what of it is on the disk."""

from m2mkd.study import phases  # noqa: F401  so that every phase is known whatever of the room is imported first
