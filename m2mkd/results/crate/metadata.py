"""A study in the terms of Provenance Run Crate: the plan (workflow, tools, steps), and its execution (actions)."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from m2mkd import __version__
from m2mkd.config import load
from m2mkd.results.crate.contents import data_files
from m2mkd.results.crate.crate_graph import CrateGraph, Reference, ref
from m2mkd.results.crate.people import Citation
from m2mkd.results.read.records import Record
from m2mkd.study.phase import PHASES, WEIGHTS
from m2mkd.study.phases import TrainStudent
from m2mkd.study.study import Study

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/provenance/0.5": ("Provenance Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
WORKFLOW = "workflow/Snakefile"
FOLDERS = {
    "config": "Configuration: experiments, scales, models, recipes, data sets, switches, claims.",
    "workflow": "Snakemake rules.",
    "m2mkd": "The package that the rules call.",
    "containers": "Definitions of images, and locked requirements.",
    "docs": "How-to pages, cost, deviations of the released code.",
    "results/published": "Published numbers, as far as they are known.",
}
INPUTS = {"scale": "Text", "experiments": "Text", "overrides": "Text", "data": "File"}
OUTPUTS = {"tables": "File", "report": "File", "weights": "File"}
COMPILE = "compile"


def crate_graph(study: Study, records: Sequence[Record], files: Mapping[str, tuple[str, int]], citation: Citation) -> CrateGraph:
    """Build all metadata of the crate.

    Parameters
    ----------
    study, records
        The graph of runs, and the record of each.
    files
        sha256 and size in bytes of each file of the crate by its path.
    citation
        Authors, and the works to cite.
    """
    graph = CrateGraph()
    authors = graph.people(citation.authors)
    licence = graph.add(
        f"https://spdx.org/licenses/{citation.licence}", "CreativeWork", name=citation.licence, description="Licence of suite and results."
    )
    graph.set_root(
        name=f"{citation.title}: {study.scale.title}",
        description=f"{len(study.runs)} runs of scale {study.scale_name}, their configuration, tables, verdicts on claims, report.",
        datePublished=_iso(max(_end(record) for record in records)),
        license=licence,
        author=authors,
        keywords=", ".join(citation.keywords),
        citation=_paper(graph, citation),
        conformsTo=[graph.add(id_, "CreativeWork", name=name, version=number) for id_, (name, number) in PROFILES.items()],
        mainEntity=ref(WORKFLOW),
    )
    for path, about in FOLDERS.items():
        graph.folder(path, name=path, description=about)
    roles = _roles(study, records)
    for path, (digest, size) in files.items():
        if path != WORKFLOW and not path.startswith(tuple(f"{name}/" for name in FOLDERS)):
            graph.file(path, digest, size, exampleOfWork=roles.get(path), about=ref("./") if path == "README.md" else None)
    _workflow(graph, study, files, authors, licence)
    actions = [_action(graph, study, record, files) for record in records]
    actions.append(_compilation(graph, study, records, files))
    _execution(graph, study, records, files, actions)
    return graph


def _paper(graph: CrateGraph, citation: Citation) -> Reference:
    paper, authors = citation.paper, graph.people(citation.paper_authors)
    year = str(paper["year"])
    return graph.add(paper["url"], "ScholarlyArticle", name=paper["title"], author=authors, datePublished=year, url=paper["url"])


def _roles(study: Study, records: Sequence[Record]) -> dict[str, Reference]:
    """Parameter of the workflow that a file is a value of."""
    roles = dict.fromkeys(data_files(study), "data") | dict.fromkeys(student_weights(study, records), "weights")
    roles |= {f"{study.root}/report.html": "report", f"{study.root}/tables/claims.csv": "tables"}
    return {path: {"@id": f"#parameter/{name}"} for path, name in roles.items()}


def student_weights(study: Study, records: Sequence[Record]) -> list[str]:
    """Weights of every seed of each student."""
    students = [record for record in records if isinstance(record.run.config, TrainStudent)]
    return [f"{study.folder(record.run.id)}/{WEIGHTS}" for record in students]


def _workflow(graph: CrateGraph, study: Study, files: Mapping[str, tuple[str, int]], authors: list[Reference], licence: Reference) -> None:
    """Describe the plan: workflow, tools and steps."""
    phases = [name for name in PHASES if any(run.phase == name for run in study.runs.values())]
    about = {name: (PHASES[name].__doc__ or name).splitlines()[0] for name in phases} | {COMPILE: "Tables, verdicts on claims, and report."}
    tools, steps = [], []
    for position, (name, description) in enumerate(about.items()):
        command = "m2mkd compile; m2mkd report" if name == COMPILE else f"m2mkd run {name}/KEY"
        tool = graph.add(
            f"#tool/{name}", "SoftwareApplication", name=command, description=description, softwareVersion=__version__, license=licence
        )
        tools.append(tool)
        steps.append(graph.add(f"#step/{name}", "HowToStep", name=name, description=description, position=str(position), workExample=tool))
    parameters = {
        name: graph.add(
            f"#parameter/{name}",
            "FormalParameter",
            name=name,
            additionalType=kind,
            conformsTo={"@id": "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"},
            valueRequired="False" if name == "overrides" else "True",
        )
        for name, kind in (INPUTS | OUTPUTS).items()
    }
    language = graph.add(
        "https://w3id.org/workflowhub/workflow-ro-crate#snakemake",
        "ComputerLanguage",
        name="Snakemake",
        alternateName="Snakemake",
        identifier={"@id": "https://doi.org/10.1093/bioinformatics/bts480"},
        url={"@id": "https://snakemake.readthedocs.io"},
        version=version("snakemake"),
    )
    graph.file(
        WORKFLOW,
        *files[WORKFLOW],
        "SoftwareSourceCode",
        "ComputationalWorkflow",
        "HowTo",
        description="The whole reproduction as one graph of jobs.",
        programmingLanguage=language,
        author=authors,
        license=licence,
        version=__version__,
        conformsTo={"@id": "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"},
        input=[parameters[name] for name in INPUTS],
        output=[parameters[name] for name in OUTPUTS],
        hasPart=tools,
        step=steps,
    )


def _action(graph: CrateGraph, study: Study, record: Record, files: Mapping[str, tuple[str, int]]) -> Reference:
    """Describe a run, and the step of the workflow that it executed."""
    run, source = record.run, record.provenance
    used = [f"{data.folder}/manifest.json" for data in run.config.data_sets]
    used += [path for run_id in run.parents for path in study.outputs(study.runs[run_id])]
    commit = f"commit {source.get('git_commit') or 'unknown'}" + (" with uncommitted changes" if source.get("git_dirty") else "")
    where = f"{source.get('hardware') or source.get('machine')}, {source.get('system')}, Python {source.get('python')}"
    packages = ", ".join(f"{name} {number}" for name, number in source.get("packages", {}).items())
    action = graph.add(
        f"#run/{run.id}",
        "CreateAction",
        name=run.id if run.seed is None else f"{run.id}, seed {run.seed}",
        description=f"{commit}; {where}; {packages}. Its configuration is in its run.json.",
        startTime=_iso(float(source["started"])),
        endTime=_iso(_end(record)),
        instrument={"@id": f"#tool/{run.phase}"},
        object=[ref(path) for path in dict.fromkeys(used) if path in files],
        result=[ref(path) for path in study.outputs(run) if path in files],
        actionStatus="http://schema.org/CompletedActionStatus",
        containerImage=_image(graph, source.get("container")),
    )
    graph.add(f"#control/{run.id}", "ControlAction", name=run.id, instrument={"@id": f"#step/{run.phase}"}, object=action)
    return action


def _image(graph: CrateGraph, image: Mapping[str, Any] | None) -> Reference | None:
    """The image that a run was computed in; none: the host."""
    if image is None:
        return None
    name = str(image.get("image"))
    digest = image.get("digest") or (name if "@sha256:" in name else None)
    requirements = f"Locked requirements sha256 {image.get('lock')}, SBOM sha256 {image.get('sbom')}, commit {image.get('revision')}."
    return graph.add(
        f"#image/{image.get('lock')}",
        "ContainerImage",
        name=name if "://" in name else Path(name).name,  # the folder of the file is of no use elsewhere
        sha256=digest.rpartition("sha256:")[2] if digest else None,
        description=requirements,
    )


def _compilation(graph: CrateGraph, study: Study, records: Sequence[Record], files: Mapping[str, tuple[str, int]]) -> Reference:
    measured = [path for record in records for path in study.outputs(record.run) if path.endswith("metrics.json")]
    action = graph.add(
        "#run/compile",
        "CreateAction",
        name="tables, verdicts and report",
        description="The tables' receipt names the runs in them.",
        endTime=_iso(Path(study.root, "report.html").stat().st_mtime),
        instrument={"@id": f"#tool/{COMPILE}"},
        object=[ref(path) for path in measured],
        result=[ref(path) for path in files if _is_result(study, path)],
        actionStatus="http://schema.org/CompletedActionStatus",
    )
    graph.add("#control/compile", "ControlAction", name=COMPILE, instrument={"@id": f"#step/{COMPILE}"}, object=action)
    return action


def _is_result(study: Study, path: str) -> bool:
    return path.startswith(f"{study.root}/") and not path.startswith(f"{study.root}/runs/")


def _execution(
    graph: CrateGraph, study: Study, records: Sequence[Record], files: Mapping[str, tuple[str, int]], actions: Sequence[Reference]
) -> None:
    """The workflow as a whole, and the engine that ran it."""
    values = {
        "scale": study.scale_name,
        "experiments": ",".join(dict.fromkeys(f"{row.experiment}/{row.variant}" for row in study.rows)),
        "overrides": " ".join(load.as_assignments(study.overrides)) or json.dumps({}),
    }
    given = [
        graph.add(f"#value/{name}", "PropertyValue", name=name, value=value, exampleOfWork={"@id": f"#parameter/{name}"})
        for name, value in values.items()
    ]
    students = [path for path in student_weights(study, records) if path in files]
    whole = graph.add(
        "#run/workflow",
        "CreateAction",
        name=f"{study.scale.title}",
        description=f"snakemake --cores all --config scale={study.scale_name}",
        startTime=_iso(min(float(record.provenance["started"]) for record in records)),
        endTime=_iso(max(_end(record) for record in records)),
        instrument=ref(WORKFLOW),
        object=[*given, *(ref(path) for path in data_files(study))],
        result=[ref(path) for path in (*(path for path in files if _is_result(study, path)), *students)],
        actionStatus="http://schema.org/CompletedActionStatus",
    )
    engine = graph.add(
        "#snakemake", "SoftwareApplication", name="Snakemake", softwareVersion=version("snakemake"), url="https://snakemake.github.io"
    )
    controls = [{"@id": action["@id"].replace("#run/", "#control/", 1)} for action in actions]
    orchestration = graph.add("#orchestration", "OrganizeAction", name="run of Snakemake", instrument=engine, object=controls, result=whole)
    graph.set_root(mentions=[whole, orchestration, *actions])


def _end(record: Record) -> float:
    source = record.provenance
    return float(source.get("ended", source["started"] + source["seconds"]))


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
