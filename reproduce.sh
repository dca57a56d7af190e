#!/bin/sh
# The small study from a fresh clone, for artefact committees: checks what is needed, runs `make reproduce`, and says where the report is.
set -eu
cd "$(dirname "$0")"

fail() {
  echo "reproduce.sh: $1" >&2
  exit 2
}

command -v python3 > /dev/null || fail "python3 was not found; install Python 3.11 or later"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "python3 is $(python3 -c 'import platform; print(platform.python_version())'); install Python 3.11 or later"
python3 -c 'import ensurepip, venv' 2> /dev/null || fail "python3 cannot make virtual environments; install Python's venv module (Debian: python3-venv)"
command -v make > /dev/null || fail "make was not found; install GNU make"
command -v git > /dev/null || fail "git was not found; install git"

make reproduce

report=results/small/report.html
[ -s "$report" ] || fail "$report was not written although make reproduce succeeded; please report this"
echo "The report is $report; open it in a browser. The verdicts are in results/small/tables/claims.md."
