"""Verdicts on the claims from the measurements."""
