"""Entities of an RO-Crate's metadata, and references among them."""

import mimetypes
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

TERMS = "https://w3id.org/ro/terms/workflow-run#"
EXTRA_TERMS = ("sha256", "ContainerImage", "containerImage")
"""Terms of Workflow Run RO-Crate that RO-Crate 1.1 lacks."""

CONFORMS = ("https://w3id.org/ro/crate/1.1", "https://w3id.org/workflowhub/workflow-ro-crate/1.0")
"""Profile that the metadata file itself conforms to."""

Reference = dict[str, str]

mimetypes.add_type("application/jsonl", ".jsonl")
mimetypes.add_type("application/yaml", ".yaml")
mimetypes.add_type("application/vnd.apache.parquet", ".parquet")
mimetypes.add_type("application/octet-stream", ".safetensors")


def ref(path: str) -> Reference:
    """Reference to a file of the crate."""
    return {"@id": quote(path)}


class CrateGraph:
    """Metadata of a crate that is being written."""

    def __init__(self) -> None:
        self.crate = ROCrate(version="1.1")
        self.crate.metadata.extra_terms.update({term: TERMS + term for term in EXTRA_TERMS})
        self.crate.metadata["conformsTo"] = [{"@id": id_} for id_ in CONFORMS]

    def set_root(self, **properties: Any) -> None:
        """Describe the crate as a whole."""
        for name, value in _kept(properties).items():
            self.crate.root_dataset[name] = value

    def add(self, id_: str, type_: str | list[str], **properties: Any) -> Reference:
        """Describe something that is not a file of the crate; properties that are none or empty are left out."""
        self.crate.add(ContextEntity(self.crate, id_, properties={"@type": type_, **_kept(properties)}))
        return {"@id": id_}

    def file(self, path: str, digest: str, size: int, *types: str, **properties: Any) -> Reference:
        """Describe a file of the crate."""
        about = {
            "@type": ["File", *types] if types else "File",
            "name": path,
            "contentSize": str(size),
            "sha256": digest,
            "encodingFormat": mimetypes.guess_type(path)[0] or "text/plain",
            **properties,
        }
        self.crate.add_file(dest_path=path, properties=_kept(about))
        return ref(path)

    def folder(self, path: str, **properties: Any) -> Reference:
        """Describe a folder of the crate."""
        self.crate.add_dataset(dest_path=path, properties=properties)
        return ref(f"{path}/")

    def people(self, authors: Iterable[Any]) -> list[Reference]:
        """Describe people and groups."""
        return [
            self.add(
                author.orcid or f"#{author.name.replace(' ', '-').lower()}", "Person" if author.person else "Organization", name=author.name
            )
            for author in authors
        ]

    def write(self, folder: Path) -> None:
        """Write only the metadata into a folder."""
        self.crate.metadata.write(folder)


def _kept(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Properties that are not empty; a list of one item becomes the item, as RO-Crate recommends."""
    single = {name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in properties.items()}
    return {name: value for name, value in single.items() if value not in (None, "", [])}
