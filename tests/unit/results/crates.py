"""Changes of a crate, as by hand and as by a forger."""

import json
import re
from pathlib import Path
from urllib.parse import quote

from m2mkd.files import sha256


def edit(folder: Path, change) -> None:
    """Change what the metadata say of each entity, by its id."""
    path = folder / "ro-crate-metadata.json"
    content = json.loads(path.read_text())
    change({entity["@id"]: entity for entity in content["@graph"]})
    path.write_text(json.dumps(content))


def sign(folder: Path, *paths: str) -> None:
    """Make the digests of changed files right again, in the manifest and in the metadata, as a forger would."""
    manifest = folder / "manifest-sha256.txt"
    for path in paths:
        now = sha256(folder / path)
        manifest.write_text(re.sub(rf"\w+  {re.escape(path)}\n", f"{now}  {path}\n", manifest.read_text()))
        edit(folder, lambda found, path=path, now=now: found.get(quote(path), {}).update(sha256=now))
    metadata = sha256(folder / "ro-crate-metadata.json")
    manifest.write_text(re.sub(r"\w+  ro-crate-metadata", f"{metadata}  ro-crate-metadata", manifest.read_text()))
