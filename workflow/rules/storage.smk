# With an object storage for outputs (--default-storage-provider), results/<scale> lies where Snakemake fetches them to and sends them from.
# Data sets are flagged as local, for every job sees them on a volume; checkpoints and plans, which no rule declares, stay on it too.


def link(path, target):
    """Let a folder that jobs write to lie elsewhere."""
    os.makedirs(target, exist_ok=True)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not os.path.lexists(path):
        os.symlink(os.path.abspath(target), path)
    if not os.path.samefile(path, target):
        sys.exit(
            f"m2mkd: {path} is there already, but outputs are to be stored elsewhere; move it away"
        )


if workflow.storage_settings.default_storage_provider is not None:
    bucket = workflow.storage_settings.default_storage_prefix.partition("://")[2]
    stored = os.path.join(
        workflow.storage_settings.local_storage_prefix,
        workflow.storage_settings.default_storage_provider,
        bucket.strip("/"),
    )
    link(ROOT, f"{stored}/{ROOT}")
    link(f"{ROOT}/work", f"data/work/{ROOT}")
    link(f"{ROOT}/plan", f"data/plan/{ROOT}")
