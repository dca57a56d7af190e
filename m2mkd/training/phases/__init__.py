"""Phases, one per file: trained parts, frozen parts and loss. Each has ``run(job) -> Outcome``."""
