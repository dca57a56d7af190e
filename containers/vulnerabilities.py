"""Known vulnerabilities of a lock: ``vulnerabilities.py PIP_AUDIT LOCK``. Status 1 if there are any; loud where nobody could be asked.

pip-audit calls a package that it could not ask about skipped, and ends well having audited nothing.
"""

import json
import re
import subprocess
import sys
from pathlib import Path


def judge(report: dict, locked: int) -> tuple[int, list[str]]:
    """Status and lines for a report of pip-audit about that many locked packages."""
    entries = report["dependencies"]
    lines = [f"{entry['name']} {entry['version']}: {flaw['id']}" for entry in entries for flaw in entry.get("vulns", [])]
    audited = sum("vulns" in entry for entry in entries)
    if lines:
        return 1, lines
    if audited < locked:
        return 0, [f"NOT AUDITED: {locked - audited} of {locked} packages; the advisory service did not answer for them"]
    return 0, [f"no known vulnerability in {locked} packages"]


def main(program: str, lock: str) -> int:
    """Ask, print, and give the status."""
    locked = len(re.findall(r"^\S+==", Path(lock).read_text(), re.M))
    command = [program, "--requirement", lock, "--disable-pip", "--require-hashes", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = {"dependencies": []}
    status, lines = judge(report, locked)
    sys.stderr.writelines(f"vulnerabilities: {line}\n" for line in lines)
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
