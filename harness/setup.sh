#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# Prepares a checkout: Debian packages, a virtual environment with pinned versions in .venv, and
# the kernel's source. Does only what is not done yet, so that repeating it takes a second and
# needs no network. `--clean` removes the environment and everything that was built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
umask 022

say() { printf 'setup: %s\n' "$*"; }
stop() {
    printf 'setup: %s\n' "$@" >&2
    exit 3
}

usable_python() {
    "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' > /dev/null 2>&1
}

find_python() {
    local name
    for name in python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
        if usable_python "$name"; then
            "$name" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

present() { # package, command
    case $1 in
        python3-venv) find_python > /dev/null && return ;;
        libc6-dev) echo '#include <stdio.h>' | gcc -fsyntax-only -x c - 2> /dev/null && return ;;
    esac
    [[ -n $2 ]] && command -v "$2" > /dev/null && return
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2> /dev/null) == installed ]]
}

install_packages() {
    local package command missing=()
    while IFS='|' read -r package command _; do
        [[ $package == '#'* ]] || present "$package" "$command" || missing+=("$package")
    done < harness/packages.txt
    ((${#missing[@]})) || return 0
    local install=(apt-get install -y --no-install-recommends "${missing[@]}") privilege=()
    command -v apt-get > /dev/null || stop "missing: ${missing[*]}" \
        "this is not Debian: install the counterparts of these Debian packages, then repeat 'make setup'"
    if ((EUID != 0)); then
        command -v sudo > /dev/null || stop "missing Debian packages: ${missing[*]}" \
            "installing them needs root, and there is no sudo: run as root" \
            "    apt-get update && ${install[*]}" "and then repeat 'make setup'"
        privilege=(sudo)
        [[ -t 0 ]] || privilege+=(-n) # nobody is there to type a password
    fi
    say "installing Debian packages: ${missing[*]}"
    "${privilege[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q ||
        say "the package lists could not be renewed; trying with the present ones"
    # Debian 12's own cargo predates the way in which registries are read today; cargo-web is its newer build.
    if [[ " ${missing[*]} " == *" cargo "* ]] && apt-cache show cargo-web > /dev/null 2>&1; then
        install=("${install[@]/#cargo/cargo-web}")
    fi
    "${privilege[@]}" env DEBIAN_FRONTEND=noninteractive "${install[@]}" < /dev/null ||
        stop "the Debian packages could not be installed; the output above says why. By hand, as root:" \
            "    apt-get update && ${install[*]}" "and then repeat 'make setup'"
}

# What the environment was made from: another path, Python or lock makes another environment.
environment_stamp() { { pwd -P; "$1" -c 'import sys; print(sys.version, sys.prefix)'; cat requirements.lock; } | sha256sum; }
project_stamp() { { pwd -P; cat pyproject.toml; } | sha256sum; }

owner_of() { stat -c %U "$1"; }

may_write() { # path: that it can be changed by whoever runs this
    [[ -w $1 ]] || stop "$PWD/$1 belongs to '$(owner_of "$1")' and '$(id -un)' cannot change it." \
        "Repeat this as '$(owner_of "$1")', or clone the repository into a directory of your own."
}

make_environment() {
    local python stamp
    if [[ -e .venv && ! -x .venv/bin/python && ! -w .venv ]]; then may_write .venv; fi
    python=$(find_python) || stop "no Python 3.11 or newer with its venv module was found." \
        "Debian 12 has it: apt-get install python3 python3-venv"
    # An environment that is complete serves whoever can read it, whichever Python is first in their PATH.
    if [[ -r .venv/stamp-environment ]] && .venv/bin/python -c '' 2> /dev/null; then
        python=$(.venv/bin/python -c 'import sys; print(sys._base_executable)')
    fi
    stamp=$(environment_stamp "$python")
    if [[ $stamp != "$(cat .venv/stamp-environment 2> /dev/null)" ]] || ! .venv/bin/python -c '' 2> /dev/null; then
        may_write .
        [[ ! -e .venv ]] || may_write .venv
        say "making the virtual environment in .venv with $python"
        rm -rf .venv
        "$python" -m venv .venv
        .venv/bin/python -m pip install --quiet --no-input -r requirements.lock ||
            stop "the Python packages of requirements.lock could not be installed; the output above says why." \
                "This step needs the package index that pip is set up to use. Then repeat 'make setup'."
        echo "$stamp" > .venv/stamp-environment
    fi
    stamp=$(project_stamp)
    if [[ $stamp != "$(cat .venv/stamp-project 2> /dev/null)" ]]; then
        may_write .venv
        .venv/bin/python -m pip install --quiet --no-input --no-deps --no-build-isolation --no-index -e . ||
            stop "the project could not be installed into .venv; the output above says why."
        echo "$stamp" > .venv/stamp-project
    fi
}

clean() {
    say "removing .venv and what the tools left (findings/ and corpus/ stay)"
    rm -rf .venv .qemu-backports .setup.lock .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis ./*.egg-info
    find . -name __pycache__ -type d -prune -exec rm -rf {} +
    # A directory that the user chose may hold other things too.
    if [[ -n ${BOTHWORLDS_CACHE:-} ]]; then
        say "builds are kept in \$BOTHWORLDS_CACHE ($BOTHWORLDS_CACHE): remove that yourself"
    else
        say "removing the builds in ${XDG_CACHE_HOME:-$HOME/.cache}/bothworlds"
        rm -rf "${XDG_CACHE_HOME:-$HOME/.cache}/bothworlds"
    fi
}

if [[ ${1:-} == --clean ]]; then
    clean
    exit
fi

# Somebody else's checkout is of use only where its environment is complete; say so before anything is installed.
[[ -w . ]] || .venv/bin/python -c '' 2> /dev/null || may_write .
install_packages
# Two set-ups at once (two terminals) take turns.
if [[ -w . ]]; then
    exec 9> .setup.lock
    flock 9
fi
make_environment
.venv/bin/bothworlds build --source-only
