"""What lies in the MLflow store of the working directory, read from its database."""

import sqlite3


def query(text: str) -> list[tuple]:
    """What the database of the working directory answers."""
    connection = sqlite3.connect("results/mlflow.db")
    try:
        return connection.execute(text).fetchall()
    finally:
        connection.close()


def numbers() -> list[tuple]:
    """Every number of every run that is not deleted, with the run's identity but not its id in the store."""
    return query(
        """select l.value, k.value, m.key, m.step, m.value from metrics m join runs r using (run_uuid)
        join tags l on l.run_uuid = r.run_uuid and l.key = 'level' join tags k on k.run_uuid = r.run_uuid and k.key = 'key'
        where r.lifecycle_stage = 'active' order by 1, 2, 3, 4, 5"""
    )


def counts() -> list[int]:
    """How many lines of each kind there are."""
    return [query(f"select count(*) from {table}")[0][0] for table in ("runs", "metrics", "params", "tags", "latest_metrics")]


def tags(level: str) -> list[dict[str, str]]:
    """Tags of every run of a level that is not deleted, and its id."""
    runs: dict[str, dict[str, str]] = {}
    for run, name, value in query("select run_uuid, key, value from tags join runs using (run_uuid) where lifecycle_stage = 'active'"):
        runs.setdefault(run, {"id": run})[name] = value
    return [found for found in runs.values() if found["level"] == level]


def experiment_tags() -> dict[str, str]:
    """Tags of the experiment of scale smoke."""
    return dict(query("select t.key, t.value from experiment_tags t join experiments e using (experiment_id) where e.name = 'm2mkd/smoke'"))


def names(level: str) -> dict[str, str]:
    """Names of the runs of a level that are not deleted, by id."""
    found = dict(query("select run_uuid, name from runs where lifecycle_stage = 'active'"))
    return {tagged["id"]: found[tagged["id"]] for tagged in tags(level)}
