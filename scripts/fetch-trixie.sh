#!/bin/sh
# Takes programs out of Debian trixie's packages, for tests: fetch-trixie.sh FOLDER PACKAGE…
# The packages are checked against Debian's signatures and unpacked into FOLDER; neither this machine's package sources
# nor its installed packages change. Prints the paths of their programs. Quick when they are there.
set -eu
[ $# -ge 2 ] || { echo "usage: $0 FOLDER PACKAGE…" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
command -v apt-get >/dev/null && [ -f "$keyring" ] || { echo "fetch-trixie: needs apt-get and $keyring" >&2; exit 3; }

missing=
for package in "$@"; do [ -f "$folder/$package.list" ] || missing="$missing $package"; done
if [ -n "$missing" ]; then
    apt=$folder/.apt
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/debs"
    : > "$apt/status"
    printf 'Types: deb\nURIs: http://deb.debian.org/debian\nSuites: trixie\nComponents: main\nSigned-By: %s\n' \
        "$keyring" > "$apt/trixie.sources"
    own="-o Dir::Etc::sourcelist=$apt/trixie.sources -o Dir::Etc::sourceparts=- -o Dir::State=$apt
        -o Dir::State::status=$apt/status -o Dir::Cache=$apt/cache -o APT::Sandbox::User=root -o APT::Get::List-Cleanup=0
        -o Acquire::Languages=none -o Acquire::http::Timeout=30"
    # shellcheck disable=SC2086
    apt-get $own -qq update >&2
    # shellcheck disable=SC2086
    (cd "$apt/debs" && apt-get $own -qq download $missing >&2)
    for package in $missing; do
        dpkg-deb -x "$apt"/debs/"$package"_*.deb "$folder"
        dpkg-deb -c "$apt"/debs/"$package"_*.deb | sed -n 's|^-[rwxs-]* .* \./\(usr/bin/.*\)$|\1|p' > "$folder/$package.list"
    done
    rm -rf "$apt"
fi
for package in "$@"; do while read -r file; do echo "$folder/$file"; done < "$folder/$package.list"; done
