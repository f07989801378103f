#!/bin/sh
# Installs missing Debian packages where that is permitted: scripts/debian.sh PACKAGE...
# As root or through a password-less sudo; otherwise it says what to install and fails.
set -eu
missing=
for package in "$@"; do
    if ! dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed'; then
        missing="$missing $package"
    fi
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "setup: this is no Debian system; please install the equivalents of:$missing" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    echo "setup: not permitted to install Debian packages here; please run: apt-get install$missing" >&2
    exit 1
fi
echo "setup: installing Debian packages:$missing" >&2
# shellcheck disable=SC2086  # the lists are words on purpose
{
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
} >/dev/null 2>&1 || { echo "setup: apt-get could not install:$missing" >&2; exit 1; }
