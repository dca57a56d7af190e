#!/usr/bin/env bash
# setup.sh FOLDER: all that builds and runs images on a bare Debian machine with neither engine nor registry, in FOLDER: Podman's settings, a
# stand-in for the base image, Apptainer. Ends by printing the file to source. Root, apt and Debian's archive are needed, nothing else.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
folder=$(realpath -m "${1:?setup.sh FOLDER}")
suite=bookworm # has the Python that the lock for CPU is made for
base=localhost/standin:$suite
if [ ! -e "$folder/env.sh" ] && command -v apptainer > /dev/null && { docker info || podman info; } > /dev/null 2>&1; then
  echo "this machine has Apptainer and an engine: nothing to stand in for"
  exit
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
  echo "setup.sh: root on a Debian machine is needed; elsewhere install Apptainer and Docker or Podman, then type 'make image-cpu'" >&2
  exit 2
fi
mkdir -p "$folder/podman/tmp"

# The second line is what Apptainer calls; apptainer.sh would install it by itself, but one installation is quicker.
packages=(podman runc mmdebstrap debootstrap
  squashfs-tools squashfuse fuse2fs fuse3 fakeroot uidmap patchelf)
if ! dpkg -s "${packages[@]}" > /dev/null 2>&1; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "${packages[@]}" > /dev/null
fi
"$here/apptainer.sh" "$folder/apptainer" &
apptainer=$!

# Settings of Podman for a root without every capability, and for a network without bridges.
cat > "$folder/podman/storage.conf" << CONFIG
[storage]
driver = "overlay"
graphroot = "$folder/podman/images"
runroot = "$folder/podman/run"
CONFIG
cat > "$folder/podman/containers.conf" << CONFIG
[containers]
netns = "host"
default_ulimits = ["nofile=16384:16384", "nproc=16384:16384"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
CONFIG
cat > "$folder/env.sh" << ENVIRONMENT
export PATH="$folder/apptainer/bin:\$PATH"
export CONTAINERS_STORAGE_CONF="$folder/podman/storage.conf" CONTAINERS_CONF="$folder/podman/containers.conf"
export APPTAINER_TMPDIR="$folder/podman/tmp" APPTAINER_CACHEDIR="$folder/podman/cache"
# What was asked for goes before it.
if [ "\${ENGINE:-podman}" = podman ]; then
  export ENGINE=podman BASE_IMAGE="\${BASE_IMAGE:-$base}"
  export ENGINE_ARGUMENTS="\${ENGINE_ARGUMENTS---pull=never --network=host --layers=false}"
fi
ENVIRONMENT
# shellcheck source=/dev/null
. "$folder/env.sh"

if ! podman image exists "$base"; then
  [ -e "$folder/base.tar" ] || "$here/base.sh" "$suite" "$folder/base.tar"
  podman import -q --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt' "$folder/base.tar" "$base" > /dev/null
  rm "$folder/base.tar"
fi
wait "$apptainer"
echo "$folder/env.sh"
