"""Validates crates with the public validator, without a network: run by the Python of ``build/audit``.

``python validate_crate.py CACHE CRATE...`` prints, as JSON, for each crate what it violates of Provenance Run Crate. The validator wants
the JSON-LD context of RO-Crate 1.1, which the package rocrate carries; it is put into the validator's cache under its address.
"""

import io
import json
import sys
from pathlib import Path

import rocrate
from requests.adapters import HTTPAdapter
from requests_cache import CachedSession
from rocrate_validator import services
from urllib3 import HTTPResponse

CONTEXT = "https://w3id.org/ro/crate/1.1/context"
PROFILE = "provenance-run-crate"


class Packaged(HTTPAdapter):
    """Answers with the context in the package."""

    def send(self, request, **_):
        content = (Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld").read_bytes()
        assert json.loads(content)["@id"] == request.url == CONTEXT
        headers = {"Content-Type": "application/ld+json"}
        return self.build_response(request, HTTPResponse(io.BytesIO(content), status=200, headers=headers, preload_content=False))


def main(cache, *crates):
    session = CachedSession(cache, backend="sqlite", expire_after=-1)
    session.mount("https://", Packaged())
    session.get(CONTEXT)
    session.close()
    found = {}
    for crate in crates:
        settings = services.ValidationSettings(
            rocrate_uri=crate, profile_identifier=PROFILE, cache_path=Path(cache), cache_max_age=-1, offline=True
        )
        result = services.validate(settings)
        found[crate] = {"checks": len(result.executed_checks), "issues": [issue.message for issue in result.get_issues()]}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
