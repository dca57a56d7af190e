"""Licences of all in an image, checked against a list: ``licences.py SBOM LIST`` prints package, version and licence, tab-separated.

Only the standard library is used, because it runs while an image is built.
"""

import json
import re
import sys
from pathlib import Path


def read_list(text: str) -> tuple[set[str], dict[str, str]]:
    """Accepted licences, and licences of single packages that their metadata do not tell."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    named = dict(re.split(r"\s+=\s+", line, maxsplit=1) for line in lines if " = " in line)
    return {line for line in lines if " = " not in line}, named


def licences_of(component: dict) -> list[str]:
    """What a component's metadata say, as SPDX expressions or classifiers."""
    found = []
    for entry in component.get("licenses", []):
        licence = entry.get("license", {})
        found.append(entry.get("expression") or licence.get("id") or licence.get("name", ""))
    # A classifier beside an expression says less of the same.
    return [name for name in found if not name.startswith("License ::")] or found


def is_accepted(expression: str, accepted: set[str]) -> bool:
    """Whether an SPDX expression can be met by accepted licences: all of ``AND``, one of ``OR``."""
    expression = expression.strip()
    if expression in accepted:
        return True
    for joint, enough in ((" OR ", any), (" AND ", all), (" WITH ", all)):
        parts = _split(expression, joint)
        if len(parts) > 1:
            return enough(is_accepted(part, accepted) for part in parts)
    if expression.startswith("(") and expression.endswith(")"):
        return is_accepted(expression[1:-1], accepted)
    return False


def _split(expression: str, joint: str) -> list[str]:
    """Parts of an expression between ``joint`` that stands in no brackets."""
    parts, depth, start = [], 0, 0
    for place, character in enumerate(expression):
        depth += (character == "(") - (character == ")")
        if depth == 0 and expression.startswith(joint, place):
            parts.append(expression[start:place])
            start = place + len(joint)
    return [*parts, expression[start:]]


def collect(sbom: dict, accepted: set[str], named: dict[str, str]) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Package, version and licence of each component, and one complaint for each that is not accepted."""
    rows, complaints = [], []
    for component in sbom["components"]:
        name = component["name"]
        licences = [named[name]] if name in named else licences_of(component)
        rows.append((name, component.get("version", ""), " AND ".join(licences)))
        if not licences or not all(is_accepted(licence, accepted) for licence in licences):
            complaints.append(f"{name} {component.get('version', '')}: {' and '.join(licences) or 'no licence in its metadata'}")
    return sorted(rows), complaints


def main(sbom: str, accepted: str) -> int:
    """Print the table; what is not accepted goes to standard error, and makes the status 1."""
    rows, complaints = collect(json.loads(Path(sbom).read_text()), *read_list(Path(accepted).read_text()))
    sys.stdout.writelines("\t".join(row) + "\n" for row in rows)
    sys.stderr.writelines(f"licence not in {accepted}: {complaint}\n" for complaint in complaints)
    return 1 if complaints or not rows else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
