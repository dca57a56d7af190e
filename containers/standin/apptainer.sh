#!/usr/bin/env bash
# apptainer.sh FOLDER: a real Apptainer in FOLDER, for Debian releases that have none.
# Debian's rolling release has the package; it and the libraries it was built with are unpacked beside the system, which stays as it is.
# That release moves, so that the version cannot be pinned: what was installed is printed with its digests and noted in FOLDER/versions.txt.
set -euo pipefail

folder=$(realpath -m "${1:?apptainer.sh FOLDER}")
if [ -x "$folder/bin/apptainer" ]; then
  "$folder/bin/apptainer" --version
  exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Helpers that Apptainer calls come from this machine's own release.
helpers=(squashfs-tools squashfuse fuse2fs fuse3 fakeroot uidmap patchelf)
dpkg -s "${helpers[@]}" > /dev/null 2>&1 ||
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "${helpers[@]}" > /dev/null

# Lists of their own, so that the machine's own sources do not change; apt checks the signature of the archive as always.
# shellcheck disable=SC2016  # apt's own variable
mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep '/debian/$' | head -n 1)
mkdir -p "$work"/lists/partial "$work"/cache/archives/partial "$work"/packages
: > "$work/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror:?no list of packages: run apt-get update} sid main" > "$work/sources.list"
cat > "$work/apt.conf" << CONFIG
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "-";
Dir::State "$work";
Dir::State::lists "$work/lists";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
APT::Sandbox::User "root";
CONFIG
(
  export APT_CONFIG=$work/apt.conf
  apt-get update -qq
  cd "$work/packages"
  apt-get download -qq apptainer libc6 libseccomp2 libsqlite3-0
) || { echo "apptainer.sh: Debian's rolling release offers no apptainer now; install one by hand and put it on the PATH" >&2; exit 1; }

for package in "$work"/packages/*.deb; do
  name=$(basename "${package%%_*}")
  dpkg-deb -x "$package" "$work/$name"
done
# Paths in the programs must be those of the folder's final place.
new=$folder.new prefix=$folder/prefix
rm -rf "$new"
mkdir -p "$new/bin" "$new/prefix/libraries"
cp -a "$work"/apptainer/usr/. "$work"/apptainer/etc "$work"/apptainer/var "$new/prefix/"
for name in libc6 libseccomp2 libsqlite3-0; do
  find "$work/$name" -path '*x86_64-linux-gnu*' -name '*.so*' -exec cp -a {} "$new/prefix/libraries/" \;
done
for program in bin/apptainer lib/x86_64-linux-gnu/apptainer/bin/starter; do
  patchelf --set-interpreter "$prefix/libraries/ld-linux-x86-64.so.2" "$new/prefix/$program"
  patchelf --force-rpath --set-rpath "$prefix/libraries" "$new/prefix/$program"
done
# The starter takes the folder above its own for the prefix, and that is lib/.
ln -sfn ../var "$new/prefix/lib/var"
ln -sfn ../etc "$new/prefix/lib/etc"

# A root that lacks a capability cannot hand it on, and Apptainer asks for all that the settings name. CAP_SYS_RESOURCE is bit 24.
sed -i 's/^root default capabilities = .*/root default capabilities = file/' "$new/prefix/etc/apptainer/apptainer.conf"
cat > "$new/bin/apptainer" << 'WRAPPER'
#!/bin/sh
held=$(sed -n 's/^CapPrm:[[:space:]]*//p' /proc/self/status)
if [ $((0x$held >> 24 & 1)) = 0 ]; then
  export APPTAINER_DROP_CAPS="${APPTAINER_DROP_CAPS:-CAP_SYS_RESOURCE}"
fi
exec "$(dirname "$(readlink -f "$0")")/../prefix/bin/apptainer" "$@"
WRAPPER
chmod +x "$new/bin/apptainer"
ln -s apptainer "$new/bin/singularity"

(cd "$work/packages" && sha256sum -- *.deb) > "$new/versions.txt"
mv "$new" "$folder"
"$folder/bin/apptainer" --version >> "$folder/versions.txt"
cat "$folder/versions.txt"
