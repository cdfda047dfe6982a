#!/usr/bin/env bash
# Builds .venv in this checkout from requirements/cpu.txt; nothing is installed system-wide.
# Nothing to change: returns at once. Interrupted: run it again. PYTHON=python3.12 chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=.venv
STAMP=$VENV/.set-up
PINS=requirements/cpu.txt
UV_PIN=uv==0.13.9
MERGEKIT_PIN=mergekit==0.1.5

fail() {
    printf 'set-up: %s\n' "$*" >&2
    exit 1
}

# python_version COMMAND: "3.12", or nothing when it does not run.
python_version() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

supported() {
    case $1 in 3.11 | 3.12 | 3.13) ;; *) return 1 ;; esac
}

# What the set-up was built from. The checkout's path belongs to it: a virtual environment cannot be moved.
wanted() {
    pwd -P
    cat pyproject.toml "$PINS" requirements/setup.sh | sha256sum
}

check_machine() {
    local machine compiler
    machine="$(uname -s) $(uname -m)"
    [ "$machine" = "Linux x86_64" ] || fail "the pinned stack is for Linux on x86_64 and this is $machine: use such a machine."
    for compiler in ${CXX:-g++ c++}; do
        command -v "$compiler" >/dev/null ||
            fail "no C++ compiler: DeepSpeed compiles a small op on first use and '$compiler' was not found; install g++ (Debian, Ubuntu: apt install g++)."
    done
    [[ $PWD != *[[:space:]]* ]] ||
        fail "the path of the checkout, '$PWD', has a space in it and DeepSpeed's op cannot be linked there: move the checkout."
    command -v make >/dev/null || fail "make was not found; install it (Debian, Ubuntu: apt install make)."
}

# Sets python to a supported interpreter: $PYTHON if given, else python3, else a versioned name.
choose_python() {
    local candidate version
    if [ -n "${PYTHON:-}" ]; then
        version=$(python_version "$PYTHON")
        supported "$version" ||
            fail "PYTHON=$PYTHON is ${version:-not a Python that runs}; Python 3.11, 3.12 or 3.13 is needed: set PYTHON to one of these."
        python=$PYTHON
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11; do
        if supported "$(python_version "$candidate")"; then
            python=$candidate
            return
        fi
    done
    version=$(python_version python3)
    fail "Python 3.11, 3.12 or 3.13 is needed and python3 is ${version:-missing}: install one of these, or name it: make setup PYTHON=/path/to/python3.12."
}

check_python() {
    local version
    version=$(python_version "$python")
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$python cannot make virtual environments (no venv or ensurepip module); install it (Debian, Ubuntu: apt install python$version-venv)."
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        fail "$python has no C headers (Python.h), which DeepSpeed's op needs; install them (Debian, Ubuntu: apt install python$version-dev)."
}

# Makes .venv, or keeps one that an interrupted set-up or older pins left, if it is of this path and version.
make_environment() {
    local clear=()
    if [ -e $VENV ]; then
        if [ "$(python_version $VENV/bin/python)" != "$(python_version "$python")" ]; then
            clear=(--clear)
        elif [ -f $STAMP ] && [ "$(head -n 1 $STAMP)" != "$(pwd -P)" ]; then
            clear=(--clear)
        fi
    fi
    rm -f $STAMP
    # Only a complete environment has pip; venv completes what is there.
    if [ ${#clear[@]} -gt 0 ] || ! $VENV/bin/python -m pip --version >/dev/null 2>&1; then
        "$python" -m venv ${clear[@]+"${clear[@]}"} $VENV
    fi
    $VENV/bin/python -m pip install -qq --disable-pip-version-check "$UV_PIN"
}

# What pip is configured with, for uv, which does not read pip's configuration.
pip_setting() {
    local name
    for name in ":env:.$1" "install.$1" "global.$1"; do
        if $VENV/bin/python -m pip config get "$name" 2>/dev/null; then return; fi
    done
}

use_pip_settings() {
    local value
    # shellcheck disable=SC2046,SC2116  # the words of the setting, one space between them
    value=$(echo $(pip_setting find-links))
    if [ -n "$value" ]; then export UV_FIND_LINKS="${UV_FIND_LINKS:-${value// /,}}"; fi
    value=$(pip_setting index-url)
    if [ -n "$value" ]; then export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$value}"; fi
}

install() {
    local quiet=()
    if [ ! -t 2 ]; then quiet=(--quiet); fi # progress bars for a person, silence for a log
    $VENV/bin/uv pip install ${quiet[@]+"${quiet[@]}"} --python "${TARGET:-$VENV/bin/python}" --no-deps \
        --build-constraints "$PINS" "$@"
}

# The CPU build of torch: from the configured sources where they have it, else from where uv knows it to be.
install_torch() {
    local torch_pin
    torch_pin=$(grep '^torch==' "$PINS")
    if install --dry-run "$torch_pin" >/dev/null 2>&1; then
        install "$torch_pin"
    else
        install --torch-backend=cpu "$torch_pin"
    fi
}

install_packages() {
    install_torch
    grep -v '^torch==' "$PINS" | install -r - -e .
}

# lock [UV OPTION ...]: resolves for the oldest supported Python, keeping the present pins unless told to --upgrade.
lock() {
    local version sources=()
    use_pip_settings
    if ! install --dry-run --reinstall "$(grep '^torch==' requirements/cpu.in)" >/dev/null 2>&1; then
        sources=(--torch-backend=cpu)
    fi
    $VENV/bin/uv pip compile --quiet --python-version 3.11 ${sources[@]+"${sources[@]}"} --no-annotate \
        --custom-compile-command "make lock" --override requirements/overrides.txt --output-file "$PINS" \
        pyproject.toml --extra cpu --extra dev requirements/cpu.in "$@"
    # These alone have no wheels; the last three come with reasoning-gym. torch is left out: a configured source may hold it for one Python only.
    for version in 3.11 3.12 3.13; do
        grep -v '^torch==' "$PINS" | $VENV/bin/uv pip compile --quiet --python-version "$version" --no-deps \
            --only-binary :all: --no-binary deepspeed --no-binary cellpylib --no-binary pycosat --no-binary zss - >/dev/null || fail "a pin has no wheel for Python $version."
    done
    echo "lock: $PINS is written; run make setup."
}

# mergekit: what `make bench-fusion` measures against, in an environment of its own beside ours.
mergekit() {
    local place=build/mergekit python=build/mergekit/bin/python
    if [ "$(cat $place/.set-up 2>/dev/null)" = "$MERGEKIT_PIN" ]; then return; fi
    use_pip_settings
    echo "set-up: $MERGEKIT_PIN goes into $place; minutes the first time."
    $VENV/bin/uv venv --quiet --clear --python $VENV/bin/python $place
    TARGET=$python install_torch
    $VENV/bin/uv pip install --quiet --python $python "$MERGEKIT_PIN"
    echo "$MERGEKIT_PIN" >$place/.set-up
}

if [ "${1:-}" = mergekit ]; then
    mergekit
    exit
fi
if [ "${1:-}" = lock ]; then
    lock "${@:2}"
    exit
fi
check_machine
if [ -z "${PYTHON:-}" ] && [ -x $VENV/bin/python ] && [ "$(wanted)" = "$(cat $STAMP 2>/dev/null)" ]; then
    exit 0
fi
choose_python
if [ "$(python_version "$python")" = "$(python_version $VENV/bin/python)" ] && [ "$(wanted)" = "$(cat $STAMP 2>/dev/null)" ]; then
    exit 0
fi
check_python
echo "set-up: the pinned stack goes into $VENV with $(python_version "$python"): about 200 packages, 4 GB; minutes the first time."
make_environment
use_pip_settings
install_packages
wanted >$STAMP.new
mv $STAMP.new $STAMP
echo "set-up: ready."
