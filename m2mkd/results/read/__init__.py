"""Outputs of finished runs, read and checked once, and the published numbers."""
