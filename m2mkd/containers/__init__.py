"""Container images: the one that the workflow's jobs run in, and facts about the one that a process is in."""
