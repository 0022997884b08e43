#!/usr/bin/env bash
# Build the images of the example auditors from their own Dockerfiles: auditors.sh
#
#   AUDITOR_BASE  an image with `python` and `pip`, instead of the one that the Dockerfiles name;
#                 default: one made here of the tree that build.sh builds in (run that first)
#   IMAGE_STORE   where buildah and podman keep images; default .image/store
#   BUILD_BIN     a bin folder whose pip collects the wheels; default .venv/bin
#
# Tags them localhost/lucid-auditor-injection:dev and localhost/lucid-auditor-pii:dev.
set -euo pipefail
cd "$(dirname "$0")/../.."

store=${IMAGE_STORE:-$PWD/.image/store}
bin=${BUILD_BIN:-.venv/bin}
work=build/auditors
run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT
mkdir -p $work/wheels
build() { buildah --root "$store" --runroot "$run" --storage-driver overlay "$@"; }

base=${AUDITOR_BASE:-}
if [ -z "$base" ]; then
  # The names that the official image of Python has; wheels come from outside, checked by hash.
  base=localhost/lucid-python:dev
  build bud --quiet --isolation chroot --pull-never --format docker --tag "$base" --file - $work >/dev/null <<'STANDIN'
FROM localhost/lucid-base
RUN python3 -m venv /opt/python && printf '[global]\nno-index = true\nfind-links = /wheels\n' >/etc/pip.conf
ENV PATH=/opt/python/bin:/usr/bin:/bin
STANDIN
  container=$(build from --pull-never "$base")
  python=$(build run --isolation chroot "$container" -- \
    python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  build rm "$container" >/dev/null
  "$bin/pip" download --quiet --require-hashes --only-binary=:all: --no-deps --dest $work/wheels \
    --python-version "$python" --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 -r requirements/auditors.txt
fi

image() {  # image NAME CONTEXT DOCKERFILE
  build bud --quiet --isolation chroot --pull-never --format docker --from "$base" \
    --volume "$PWD/$work/wheels:/wheels:ro" --file "$3" --tag "localhost/lucid-auditor-$1:dev" "$2" >/dev/null
}
image injection examples/auditors/injection examples/auditors/injection/Dockerfile
image pii . examples/auditors/pii/Dockerfile
