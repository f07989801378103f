#!/bin/sh
# Sets up .venv beside the Makefile: scripts/setup.sh EXTRAS
#   EXTRAS  comma-separated extras of pyproject.toml, e.g. "plot" or "dev"
# Needs Python 3.10 or newer with pip. Nothing outside the repository changes, except that missing
# Debian packages (a C compiler among them) are installed where this user may do that.
set -eu
cd "$(dirname "$0")/.."
extras=${1:-plot}
venv=.venv
python=${PYTHON:-python3}

say() { printf '%s\n' "setup: $*" >&2; }

command -v "$python" >/dev/null 2>&1 || { say "no $python here: install Python 3.11 (Debian: python3), or name one with PYTHON=..."; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    say "$("$python" --version) is too old: Python 3.10 or newer is needed, name one with PYTHON=..."; exit 1; }

if ! [ -x "$venv/bin/python" ]; then
    say "making $venv"
    # Debian splits ensurepip off into python3-venv; without it the environment is made bare and the
    # pip outside fills it.
    if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
        rm -rf "$venv"
        "$python" -m venv --without-pip "$venv" || { say "could not make a virtual environment (Debian: apt-get install python3-venv)"; exit 1; }
    fi
fi

if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    pip() { "$venv/bin/python" -m pip "$@"; }
elif "$python" -m pip --python "$venv/bin/python" --version >/dev/null 2>&1; then
    pip() { "$python" -m pip --python "$venv/bin/python" "$@"; }
elif sh scripts/debian.sh python3-venv && rm -rf "$venv" && "$python" -m venv "$venv"; then
    pip() { "$venv/bin/python" -m pip "$@"; }
else
    say "pip is missing: install it (Debian: apt-get install python3-pip python3-venv) and run this again"
    exit 1
fi

# PyPI's torch for Linux brings several gigabytes of CUDA's libraries; without an NVIDIA GPU the build from torch's own
# index does as well. Who has told pip where to look is not overruled.
cpu_torch=https://download.pytorch.org/whl/cpu
if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1 \
    && ! pip config list 2>/dev/null | grep -qE 'index-url|find-links' \
    && "$python" -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=5)' "$cpu_torch/torch/" 2>/dev/null; then
    export PIP_EXTRA_INDEX_URL="$cpu_torch"
fi

say "installing the package with [$extras] into $venv (torch is most of it; minutes the first time)"
log=$venv/setup.log
if ! pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e ".[$extras]" >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    say "pip could not install the packages; the whole log is $log"
    exit 1
fi
# Decoding on a CPU is some three times faster with it (docs/performance.md); it works without.
command -v "${CC:-cc}" >/dev/null 2>&1 || sh scripts/debian.sh gcc libc6-dev || say "going without a C compiler: replies take longer"
say "done"
