#!/bin/sh
# install.sh STEP [cpu|cuda]: what a build does as root in /build; Dockerfile and m2mkd-debootstrap.def share it. Steps, in order:
#   tools         uv, and what lists the parts of an image
#   environment   the hashed lock in /opt/m2mkd
#   package       m2mkd itself, and what is known of the image: lock, provenance, parts (SBOM), licences
set -eu

# A slow machine is no fault of a package.
export UV_COMPILE_BYTECODE_TIMEOUT=900

environment=/opt/m2mkd
about=$environment/share/m2mkd
install="/build/tools/bin/uv pip install --no-cache --python"
cd /build

case $1 in
  tools)
    python3 -m venv tools
    tools/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r locks/uv.txt
    $install tools/bin/python --require-hashes -r locks/sbom.txt
    ;;
  environment)
    # Bytecode is compiled now, because nothing can be written beside the modules later.
    python3 -m venv --without-pip $environment
    UV_FIND_LINKS=/build/locks $install $environment/bin/python --compile-bytecode --require-hashes -r "locks/run-$2.txt"
    mkdir -p $about
    cp "locks/run-$2.txt" $about/lock.txt
    ;;
  package)
    $install $environment/bin/python --compile-bytecode --no-deps --no-build-isolation ./source
    # `make audit` validates what the same tool says; here that would take longer than all else in this step.
    tools/bin/cyclonedx-py environment --no-validate --output-reproducible --of JSON -o $about/sbom.cdx.json $environment/bin/python
    python3 licences.py $about/sbom.cdx.json licences.txt > $about/licences.tsv
    if [ -e provenance.json ]; then cp provenance.json $about/; fi
    # Only what needs it: a changed mode copies the whole file into another layer.
    find $environment ! -perm -a+r -exec chmod a+rX {} +
    ;;
esac
