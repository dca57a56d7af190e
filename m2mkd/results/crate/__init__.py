"""A study as a Workflow Run RO-Crate: a folder that describes, proves and can repeat itself."""
