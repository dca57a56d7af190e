"""``m2mkd data``: data sets."""

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Fetch, check, prepare and show data sets.")
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Data set in config/datasets.yaml.")]
DataArgument = Annotated[str, typer.Argument(metavar="NAME@SIZE", help="Data set at an image size, for example tiny-imagenet@64.")]


@app.command("list")
def list_() -> None:
    """List the data sets, their sizes and their terms."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table
    from rich.text import Text

    from m2mkd.config import load
    from m2mkd.data.fetch import present, raw_file
    from m2mkd.errors import printable

    table = Table("name", "what it is", "classes", "train", "val", "size", "here", "licence", box=SIMPLE, padding=(0, 1, 0, 0))
    for column in (0, 2, 3, 4, 5, 6):
        table.columns[column].no_wrap = True
    for name, dataset in load.datasets().items():
        files = present(dataset)
        there = sum(raw_file(file).exists() for file in files)
        here = f"{there} of {len(files)}" if dataset.fetched else dataset.path or "included"
        counts = (str(count or "") for count in (dataset.classes, dataset.train_images, dataset.val_images))
        size = sum(file.bytes or 0 for file in files)
        cells = (name, dataset.title, *counts, decimal(size) if size else "", here, dataset.licence)
        table.add_row(*(Text(printable(cell)) for cell in cells))  # Text, because a title may have brackets
    shown = sys.stdout is not None and sys.stdout.isatty()
    Console(file=sys.stdout or io.StringIO(), width=None if shown else 160).print(table)


@app.command()
def fetch(
    name: NameArgument,
    origin: Annotated[
        str | None,
        typer.Option("--from", help="Folder, or http(s) address of one, that holds the source files.", envvar="M2MKD_DATA_SOURCE"),
    ] = None,
    file: Annotated[str | None, typer.Option(help="Fetch this file only.")] = None,
) -> None:
    """Download the source files of a data set to data/raw and check them; an interrupted download resumes."""
    from m2mkd.config.load import dataset_named
    from m2mkd.data.fetch import fetch

    fetch(name, dataset_named(name, "data fetch"), origin, file)


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Data sets; default: all that are present.")] = None,
) -> None:
    """Compare source files and prepared sets with their digests, with each other, and with the data that finished runs used."""
    from m2mkd.config import load
    from m2mkd.data.fetch import check, raw_file
    from m2mkd.data.in_place import content_here
    from m2mkd.data.pack import open_pack
    from m2mkd.data.recorded import require_seen, require_sources
    from m2mkd.errors import InputError

    for name in names or load.datasets():
        dataset = load.dataset_named(name, "data verify")
        raw = [file for files in dataset.sources for file in files if raw_file(file).exists()]
        in_place = dataset.path is not None and Path(dataset.path).exists()
        digests = {}
        for file in raw:
            known = "as expected" if file.sha256 or file.md5 else "the registry has no digest"
            digests[file.name] = check(raw_file(file), file, name, afresh=True)
            typer.echo(f"{raw_file(file)}: sha256 {digests[file.name]}, {known}")
        require_sources(name, digests)
        if in_place:
            typer.echo(f"{dataset.path}: digest {content_here(name, dataset)}, as expected")
        packs = sorted(Path("data/packed").glob(f"{name}@*/*/manifest.json"))
        for manifest in packs:
            pack = open_pack(manifest.parent, verify="always")
            counts = ", ".join(f"{facts['images']} {split}" for split, facts in pack.manifest["splits"].items())
            runs = require_seen(manifest.parent)
            seen = f", as used by {runs} finished {'run' if runs == 1 else 'runs'}" if runs else ""
            typer.echo(f"{manifest.parent}: {counts} images, complete{seen}")
        if names and not raw and not in_place and not packs:
            fix = f"run 'm2mkd data {f'fetch {name}' if dataset.fetched else f'prepare {name}@PIXELS'}'"
            raise InputError(f"{name}: has neither source files nor a prepared set; {fix}")


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new data set: small letters, digits and '-'.")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of images, CSV, Parquet or WebDataset, from the project's root.")],
    layout: Annotated[str | None, typer.Option(help="What it is, where it is not recognised; 'm2mkd plugins' lists the layouts.")] = None,
    val_share: Annotated[float | None, typer.Option(help="Share of each class to measure on, of a set without a split.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Parameter of the layout, for example val_from=test.")] = None,
    title: Annotated[str | None, typer.Option(help="What it is; default: the name.")] = None,
    licence: Annotated[str | None, typer.Option(help="Terms of use.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Add the entry to config/own-datasets.yaml.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="PNG to write; default: data/sheets/NAME.png.")] = None,
) -> None:
    """Register images of your own where they lie: check, count and hash them, propose the entry, and write a contact sheet."""
    from functools import partial

    import yaml

    from m2mkd.config import load
    from m2mkd.config.datasets import DataRef
    from m2mkd.data.adding import added, recognised
    from m2mkd.errors import InputError
    from m2mkd.files import write_atomically, write_text

    DataRef.parse(f"{name}@1", "data add")
    if name in load.datasets():
        raise InputError(f"data add: there is a data set '{name}' already; take another name, or remove its entry")
    parameters = load.parse_overrides(settings or []) | ({"val_share": val_share} if val_share is not None else {})
    kind = layout or recognised(path)
    said = {"title": title or name} | ({"licence": licence} if licence else {})
    found = added(path, {"kind": kind, **parameters} if parameters else kind, said)
    for line in (f"{path}: {kind}", *found.counts(), *(f"warning: {doubt}" for doubt in found.found.doubts())):
        typer.echo(line)
    target = output or Path("data/sheets") / f"{name}.png"
    write_atomically(target, partial(found.sheet.save, format="PNG"))
    typer.echo(f"contact sheet: {target}")
    own, text = load.CONFIG / load.OWN_DATASETS, yaml.safe_dump({name: found.entry}, sort_keys=False, allow_unicode=True, width=120)
    if write:
        before = own.read_text(encoding="utf-8").rstrip() + "\n\n" if own.exists() else ""
        write_text(own, before + text)
        load.datasets.cache_clear()
        load.datasets()
    typer.echo(f"written to {own}:" if write else f"add this to {own}, or run the command again with --write:")
    typer.echo(text, nl=False)


@app.command()
def prepare(data: DataArgument) -> None:
    """Prepare a data set at an image size."""
    from m2mkd.data.prepare import prepare
    from m2mkd.study.data import resolve_data

    resolved, dataset = resolve_data(data, "data prepare")
    prepare(resolved.name, dataset, resolved.image_size, Path(resolved.folder))


@app.command()
def show(
    data: DataArgument,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="PNG to write; default: data/sheets/NAME@SIZE.png.")] = None,
) -> None:
    """Write a contact sheet of a prepared set, with labels, and print its contents."""
    from m2mkd.data.contact_sheet import write_contact_sheet
    from m2mkd.data.pack import open_pack
    from m2mkd.study.data import resolve_data

    resolved, _ = resolve_data(data, "data show")
    pack = open_pack(Path(resolved.folder))
    target = output or Path("data/sheets") / f"{data}.png"
    write_contact_sheet(pack, target)
    for split, facts in pack.manifest["splits"].items():
        counts = facts["per_class"]
        held = f", {facts['instances']} instances and {facts['crowds']} crowds" if "instances" in facts else ""
        typer.echo(f"{split}: {facts['images']} images{held} of {len(counts)} classes, {min(counts)} to {max(counts)} each")
    typer.echo(f"contact sheet: {target}")


@app.command()
def describe(
    data: DataArgument,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder to write to; default: data/described/NAME@SIZE.")] = None,
) -> None:
    """Write machine-readable metadata of a prepared set: Croissant, and a table of its images with label, name and sha256."""
    from m2mkd.data.croissant import CROISSANT_FILE, write_croissant
    from m2mkd.data.pack import open_pack
    from m2mkd.study.data import resolve_data

    resolved, dataset = resolve_data(data, "data describe")
    folder = output or Path("data/described") / data
    write_croissant(open_pack(Path(resolved.folder)), dataset, folder)
    typer.echo(f"metadata: {folder / CROISSANT_FILE}")
