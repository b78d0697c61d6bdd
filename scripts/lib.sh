# shellcheck shell=bash disable=SC2034
# What the scripts share: messages, installing what is missing, ports. Sourced, never run.
#
#   . "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
#   need compiler         # a C compiler and cargo, or an explanation
#   need build kafka postgres
set -euo pipefail
# Otherwise a failure inside of $(…) goes unseen.
shopt -s inherit_errexit

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${TIDEGATE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/tidegate}

say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename "$0"): $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# ---- what is missing -------------------------------------------------------------------------

# need PART…: makes sure that everything these parts use is installed.
# Parts: compiler (C, C++, make, cargo), build (that, and what TLS is built with), kafka, postgres, tls, containers.
need() {
  local part packages=()
  # Rust first looks where its installer puts it: a shell started before the installation does not know.
  have cargo || [ ! -d "${HOME:-}/.cargo/bin" ] || PATH=$HOME/.cargo/bin:$PATH
  for part in "$@"; do mapfile -t -O "${#packages[@]}" packages < <("missing_$part"); done
  [ "${#packages[@]}" = 0 ] || install_packages "${packages[@]}"
  for part in "$@"; do case $part in compiler | build) have cargo || install_rust ;; esac; done
}

missing_compiler() {
  have cc || printf '%s\n' gcc libc6-dev
  have c++ || echo g++
  have make || echo make
  if ! have cargo; then
    have curl || echo curl
    [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
  fi
}

missing_build() {
  missing_compiler
  have perl || echo perl
  have pkg-config || echo pkg-config
  { have pkg-config && pkg-config --exists libssl; } || echo libssl-dev
}

missing_kafka() {
  # With a compiler: what reads topics by Kafka's own consumer is a source file.
  [ -x "$(dirname "$(java_path)")/javac" ] || echo default-jdk-headless
  have mvn || echo maven
  missing_processes
}

missing_postgres() {
  postgres_bin >/dev/null || echo postgresql
  missing_processes
}

missing_processes() { { have setpriv && have setsid && have flock; } || echo util-linux; }

missing_tls() { have openssl || echo openssl; }

missing_containers() {
  local tool
  for tool in docker dockerd containerd runc iptables; do
    if ! have $tool; then printf '%s\n' docker.io containerd runc iptables; return; fi
  done
}

install_packages() {
  local packages
  mapfile -t packages < <(printf '%s\n' "$@" | sort -u)
  local line="apt-get update && apt-get install -y --no-install-recommends ${packages[*]}"
  have apt-get || die "missing (by Debian's names): ${packages[*]}. Install them and try again."
  [ "$(id -u)" = 0 ] || die "missing: ${packages[*]}. Run this, then try again:
  sudo sh -c '$line'"
  say "installing ${packages[*]}"
  without_services apt_install "${packages[@]}"
}

apt_install() {
  export DEBIAN_FRONTEND=noninteractive
  local log
  log=$(mktemp)
  # One line is enough for what works; for what does not, everything it said.
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "$@"; } >"$log" 2>&1 </dev/null ||
    { cat "$log" >&2; die "apt-get could not install $*"; }
  rm -f "$log"
}

# A fresh PostgreSQL or Docker package starts its service; ours are started by hand, on ports of their own.
without_services() {
  local policy=/usr/sbin/policy-rc.d ours=no
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    ours=yes
  fi
  local status=0
  ("$@") || status=$?
  [ $ours = no ] || rm -f $policy
  return $status
}

install_rust() {
  local line="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c rustfmt -c clippy"
  have curl || die "no cargo and no curl. Install Rust (https://rustup.rs), then try again."
  say "no cargo here: installing Rust by its own installer"
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
    sh -s -- -y --profile minimal -c rustfmt -c clippy >&2 ||
    die "Rust's installer failed. Run this, then try again:
  $line"
  PATH=$HOME/.cargo/bin:$PATH
}

# ---- where things are ------------------------------------------------------------------------

# The first Java of version 17 or later.
java_path() {
  local candidate version
  for candidate in ${JAVA_HOME:+"$JAVA_HOME/bin/java"} "$(command -v java || true)" /usr/lib/jvm/*/bin/java; do
    [ -x "$candidate" ] || continue
    version=$("$candidate" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
    if [ "${version:-0}" -ge 17 ]; then readlink -f "$candidate"; return; fi
  done
  return 1
}

# The directory with `initdb` and `postgres`: the newest of the distribution's, or the one in PATH.
postgres_bin() {
  local bin
  if [ -n "${TIDEGATE_POSTGRES_BIN:-}" ]; then
    [ -x "$TIDEGATE_POSTGRES_BIN/initdb" ] && echo "$TIDEGATE_POSTGRES_BIN"
    return
  fi
  bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -t/ -k5 -rn | head -n 1)
  [ -x "$bin/initdb" ] || bin=$(dirname "$(readlink -f "$(command -v initdb || true)")")
  [ -x "$bin/initdb" ] && [ -x "$bin/postgres" ] && echo "$bin"
}

# ---- ports -----------------------------------------------------------------------------------

port_answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# take_port: sets $port to one below the ephemeral range that nobody uses, and holds it for this process by the
# same lock files as tests/src/servers/port.rs.
take_port() {
  local locks=${TMPDIR:-/tmp}/tidegate-ports number held
  mkdir -p "$locks"
  # Several users may test on one machine. If the directory is somebody else's, it is open already.
  chmod 1777 "$locks" 2>/dev/null || true
  for ((number = 20000 + $$ * 37 % 12000; ; number = number >= 31999 ? 20000 : number + 1)); do
    { exec {held}>"$locks/$number"; } 2>/dev/null || continue
    if flock -n "$held" && ! port_answers "$number"; then port=$number; return; fi
    exec {held}>&-
  done
}
