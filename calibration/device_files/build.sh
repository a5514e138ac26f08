#!/bin/sh
# Build the engines of this folder with trtexec, for ${description}.
#
#   sh build.sh             build
#   sh build.sh --dry-run   print what it would do
#
# TRTEXEC and PYTHON name other programs than those that are found.
set -eu

dry_run=no
case "$${1-}" in
    "") ;;
    --dry-run) dry_run=yes ;;
    *)
        echo "usage: sh build.sh [--dry-run]" >&2
        exit 2
        ;;
esac
cd "$$(dirname "$$0")"

python=$${PYTHON:-python3}
trtexec=$${TRTEXEC:-}
if [ -z "$$trtexec" ]; then
    trtexec=$$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)
    if [ "$$dry_run" = no ] && [ ! -x "$$trtexec" ]; then
        echo "build.sh: no trtexec on the path or in /usr/src/tensorrt/bin; set TRTEXEC" >&2
        exit 1
    fi
fi

# Run a command, or print it.
run() {
    if [ "$$dry_run" = yes ]; then
        printf '%s\n' "$$*"
    else
        "$$@"
    fi
}

# The same with what it says in a file, which is shown where it fails.
run_logged() {
    log=$$1
    shift
    if [ "$$dry_run" = yes ]; then
        printf '%s\n' "$$*"
        return
    fi
    echo "running trtexec, for minutes; its log is $$log"
    if ! "$$@" >"$$log" 2>&1; then
        tail -n 20 "$$log" >&2
        echo "build.sh: trtexec failed; all of its log is in $$log" >&2
        exit 1
    fi
}

${steps}
