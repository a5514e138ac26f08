#!/bin/sh
# Build the engines of this folder with trtexec, for ${description}.
#
#   sh build.sh             build
#   sh build.sh --dry-run   print what it would do
#
# Set TRTEXEC and PYTHON to use other programs than those found.
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

# Print the absolute path of a program; in a dry run it may be missing.
find_program() {
    if found=$$(command -v "$$1"); then
        case "$$found" in
            /*) echo "$$found" ;;
            *) echo "$$PWD/$$found" ;;
        esac
    elif [ "$$dry_run" = yes ]; then
        echo "$$1"
    else
        echo "build.sh: $$1 is not found; set $$2 to its path" >&2
        exit 1
    fi
}

installed=/usr/src/tensorrt/bin/trtexec # by JetPack, not on the path
if [ -z "$${TRTEXEC-}" ] && ! command -v trtexec >/dev/null && [ -x "$$installed" ]; then
    TRTEXEC=$$installed
fi
python=$$(find_program "$${PYTHON:-python3}" PYTHON)
trtexec=$$(find_program "$${TRTEXEC:-trtexec}" TRTEXEC)
CDPATH='' cd -- "$$(dirname -- "$$0")"

# Run a command, or print it.
run() {
    if [ "$$dry_run" = yes ]; then
        printf '%s\n' "$$*"
    else
        "$$@"
    fi
}

# Run a command with its output in a log file; show the end of the log if it fails.
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
        echo "build.sh: trtexec failed; the whole log is in $$log" >&2
        exit 1
    fi
}

${steps}
