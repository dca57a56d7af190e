#!/usr/bin/env bash
# base.sh SUITE ARCHIVE: a stand-in for a registry's Debian image, as a tar of a root file system made from Debian's packages.
# It trusts what this machine trusts, so that builds can download behind a company's own certificate authority; the Dockerfile knows nothing of it.
set -euo pipefail

suite=${1:?base.sh SUITE ARCHIVE} archive=${2:?base.sh SUITE ARCHIVE}
# shellcheck disable=SC2016  # apt's own variable
mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep '/debian/$' | head -n 1)
# /dev is left out of the archive by an option and never emptied by a hook: the machine's own /dev/shm is mounted there while hooks run.
# shellcheck disable=SC2016  # a hook's shell expands $1, the new root
mmdebstrap --quiet --format=tar --variant=minbase --include=ca-certificates --skip=output/dev \
  --aptopt='Acquire::Languages "none"' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --customize-hook='find /usr/local/share/ca-certificates -name "*.crt" -exec cp {} "$1/usr/local/share/ca-certificates/" \;' \
  --customize-hook='chroot "$1" update-ca-certificates' \
  "$suite" "$archive.new" "${mirror:?no list of packages: run apt-get update}"
mv "$archive.new" "$archive"
