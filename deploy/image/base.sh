#!/usr/bin/env bash
# Make the tree that the image is built in, from Debian packages alone: base.sh OUT.tar
#
# For where no image registry can be reached, or none is trusted. The packages come from this
# machine's own apt sources, so they are those of its Debian release. The same packages give the same
# bytes. Elsewhere any image that has python3 with venv, binutils and dpkg does as well.
set -euo pipefail

out=${1:?base.sh OUT.tar}
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:?must be set: the time of every file}"

sources=(/etc/apt/sources.list.d/debian.sources)
[ -e "${sources[0]}" ] || sources=(/etc/apt/sources.list)
release=$(. /etc/os-release && echo "$VERSION_CODENAME")

mmdebstrap --quiet --format=tar --variant=minbase --include=python3,python3-venv,binutils,ca-certificates \
  "$release" "$out.part" "${sources[@]}"
mv "$out.part" "$out"
