#!/usr/bin/env bash
# Build the image with buildah, as root, without a daemon: build.sh TAG
#
#   BASE               the image to build in, by digest; default: one made by base.sh
#   SOURCE_DATE_EPOCH  the time of every file; default: that of the last commit
#   IMAGE_STORE        where buildah and podman keep images; default .image/store
#   REVISION           of the source, for the label; default: what git says, with -dirty if it is so
#   BUILD_BIN          a bin folder whose pip collects the wheels; default .venv/bin
#
# Prints the image's digest, which is the same wherever it is built from the same source and base.
set -euo pipefail
cd "$(dirname "$0")/../.."

tag=${1:?build.sh TAG}
store=${IMAGE_STORE:-$PWD/.image/store}
bin=${BUILD_BIN:-.venv/bin}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
revision=${REVISION:-$(git describe --always --dirty --abbrev=40 --exclude='*')}
mkdir -p "$store" .image
run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT
build() { buildah --root "$store" --runroot "$run" --storage-driver overlay "$@"; }

if [ -n "${BASE:-}" ]; then
  build inspect --type image "$BASE" >/dev/null 2>&1 || build pull --quiet "$BASE" >/dev/null
else
  base_time=1700000000  # fixed, so that the base does not change with every commit
  [ -e .image/base.tar ] || SOURCE_DATE_EPOCH=$base_time deploy/image/base.sh .image/base.tar
  build bud --quiet --isolation chroot --timestamp $base_time --tag localhost/lucid-base \
    --file - .image <<<$'FROM scratch\nADD base.tar /\n' >/dev/null
  BASE=localhost/lucid-base@$(build images --format '{{.Digest}}' localhost/lucid-base)
fi

# The wheels, for the base's interpreter; hashes are checked here and again in the build.
container=$(build from --pull-never "$BASE")
python=$(build run --isolation chroot "$container" -- \
  python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
build rm "$container" >/dev/null
rm -rf build/lib build/image  # setuptools would pack what is left of an earlier state
mkdir -p build/image/wheels
"$bin/pip" download --quiet --require-hashes --only-binary=:all: --no-deps --dest build/image/wheels \
  --python-version "$python" --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
  --platform manylinux2014_x86_64 -r requirements/runtime.txt
"$bin/pip" wheel --quiet --no-deps --no-build-isolation --wheel-dir build/image/wheels .
wheel=$(echo build/image/wheels/lucid_agent-*.whl)
version=$(basename "$wheel" | cut -d- -f2)
echo "lucid-agent==$version --hash=sha256:$(sha256sum "$wheel" | cut -d' ' -f1)" >build/image/agent.txt

# Docker's format: the OCI one has no HEALTHCHECK.
build bud --quiet --isolation chroot --pull-never --no-cache --format docker --identity-label=false \
  --timestamp "$SOURCE_DATE_EPOCH" --build-arg "BASE=$BASE" \
  --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
  --ignorefile deploy/image/ignore --tag "$tag" . >/dev/null
stored="containers-storage:[overlay@$store+$run]$tag"
skopeo copy --quiet "$stored" "dir:$run/image"
python3 deploy/image/anonymous.py "$run/image"
layer=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["layers"][0]["digest"][7:])' \
  "$run/image/manifest.json")
rm -rf .image/status.d  # which packages the image is made of, for `make sbom`
tar --extract --file "$run/image/$layer" --directory .image --strip-components=3 var/lib/dpkg/status.d
skopeo copy --quiet "dir:$run/image" "$stored"
build rmi --prune --force >/dev/null  # what the tag named before
build images --format '{{.Digest}}' "$tag"
