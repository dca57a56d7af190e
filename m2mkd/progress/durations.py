"""Durations in words."""


def exact_duration(seconds: float) -> str:
    """A measured duration, such as ``8 s``, ``3:05`` (minutes and seconds) or ``2:03:05``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = f"{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02}"
    return f"{whole // 3600}:{minutes}" if whole >= 3600 else minutes


def rough_duration(seconds: float) -> str:
    """An estimated duration, no more precise than it is known, such as ``40 s``, ``12 min``, ``3 h 20 min`` or ``5 d 4 h``."""
    if seconds < 55:
        return f"{max(10, 10 * round(seconds / 10))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {10 * (minutes % 60 // 10)} min" if minutes < 600 else f"{round(minutes / 60)} h"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"
