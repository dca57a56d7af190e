"""Resolved runs: their keys, the graph that they form, its plan as files, and its state on the disk."""

from m2mkd.study import phases  # noqa: F401  registers every phase, whichever module of the room is imported first
