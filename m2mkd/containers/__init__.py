"""Images: which one the workflow's jobs run in, and what a process finds out about the one that it is in."""
