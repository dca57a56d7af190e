"""Students on the Hugging Face hub: ``m2mkd push`` and ``m2mkd pull``."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

RepositoryArgument = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository of the hub.")]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, for pull also tag or commit; default: the main branch.")]


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run of train_student.")],
    repository: RepositoryArgument,
    revision: RevisionOption = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the files into this folder, and upload nothing.", show_default=False)
    ] = None,
) -> None:
    """Publish a student: weights, configuration that timm reads, and a card with what was measured."""
    if output is not None:
        from m2mkd.hub.package import write_package

        write_package(run, output, repository)
        typer.echo(f"{output}: written; nothing was uploaded")
        return
    from m2mkd.hub.transfer import push as upload

    typer.echo(upload(run, repository, revision=revision, private=private))


@app.command()
def pull(
    repository: RepositoryArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")],
    revision: RevisionOption = None,
) -> None:
    """Fetch a student, and check its weights against their digest."""
    from m2mkd.hub.transfer import pull as fetch

    student = fetch(repository, output, revision=revision)
    typer.echo(f"{output}: {student.config.student.family} of run {student.run}, sha256 {student.sha256}")
