"""One file a phase: what trains, what is frozen, which loss. Each has ``run(job) -> Outcome``."""
