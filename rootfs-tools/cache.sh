# shellcheck shell=bash
# Sourced by every script here and by tests/lab/build-qemu: error messages, the tools a script needs, and one cache that any number of scripts may
# fill at the same time. An entry appears in one rename, whole or not at all; who needs the same one waits and shares it.

# Debian keeps mkfs, modprobe and depmod out of an ordinary user's PATH.
PATH=$PATH:/usr/sbin:/sbin

readonly cache_root=${MAYFLY_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set: set MAYFLY_CACHE to a directory}/.cache}/mayfly}

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

say() { echo "${0##*/}: $*" >&2; }

# A script's leading comment is its --help.
show_help() { sed -n '2,/^set /{/^# \{0,1\}/s///p}' "$0"; }

# need_tools TOOL:PACKAGE...: all that are missing, in one message.
need_tools() {
  local pair tools=() packages=()
  for pair in "$@"; do
    command -v "${pair%%:*}" > /dev/null && continue
    tools+=("${pair%%:*}")
    packages+=("${pair#*:}")
  done
  [ ${#tools[@]} -eq 0 ] || die "not found: ${tools[*]}; install the Debian package(s): ${packages[*]}" \
    "(.ci/install-packages does)"
}

# need_value OPTION COUNT: the option is followed by a value.
need_value() { [ "$2" -ge 2 ] || die "$1 needs a value; see --help"; }

hash_of_input() { sha256sum | cut -c 1-64; }

# Temporary directories and the one job in the background end with the script, however it ends.
scratch_dirs=()
background_job=
clean_up() {
  [ -z "$background_job" ] || kill -- "-$background_job" 2> /dev/null || true
  [ ${#scratch_dirs[@]} -eq 0 ] || rm -rf -- "${scratch_dirs[@]}"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# make_scratch VARIABLE PREFIX: a new directory PREFIX.XXXXXX, gone when the script ends. (Not by command substitution:
# the subshell would keep the name from the list.)
make_scratch() {
  local created
  created=$(mktemp -d "$2.XXXXXX") || die "cannot make a directory $2.*; is there room, and may you write there?"
  scratch_dirs+=("$created")
  printf -v "$1" %s "$created"
}

# cached VARIABLE NAME FUNCTION [ARGUMENT...]: sets VARIABLE to the cache's directory NAME. If it is not there yet,
# FUNCTION fills a new directory, its first argument, that becomes it.
cached() {
  local -n cached_path=$1
  local entry=$cache_root/$2 lock filling
  shift 2
  cached_path=$entry
  [ ! -d "$entry" ] || return 0
  mkdir -p "${entry%/*}" || die "cannot make ${entry%/*}; set MAYFLY_CACHE to a directory that you may write to"
  exec {lock}> "$entry.lock"
  if ! flock --nonblock "$lock"; then
    say "waiting for another run that makes $entry"
    flock "$lock"
  fi
  if [ ! -d "$entry" ]; then
    # Under the lock, whatever lies here is of a run that was killed.
    rm -rf -- "$entry".filling.*
    make_scratch filling "$entry.filling"
    chmod 755 "$filling"
    "$1" "$filling" "${@:2}"
    mv -T -- "$filling" "$entry"
  fi
  exec {lock}>&-
}

check_destination() {
  [ -d "$(dirname -- "$1")" ] || die "cannot write $1: there is no directory $(dirname -- "$1")"
  [ ! -d "$1" ] || die "cannot write $1: it is a directory; name a file"
}

# put FILE DESTINATION: a copy that appears in one rename.
put() {
  local beside
  check_destination "$2"
  beside=$(mktemp "$2.XXXXXX") || die "cannot write beside $2; may you write there?"
  if ! cp --reflink=auto -- "$1" "$beside" || ! chmod --reference="$1" -- "$beside" || ! mv -T -- "$beside" "$2"; then
    rm -f -- "$beside"
    die "cannot write $2; is there room?"
  fi
}

# with_progress LOG PATTERN COMMAND...: compiles. One line that moves on a terminal, a line now and then elsewhere; PATTERN
# is what LOG has once for each file.
with_progress() {
  local log=$1 status=0 count interval=15 end='\n' started=$SECONDS next=0
  [ ! -t 2 ] || { interval=2 end='\r'; }
  set -m  # a process group of its own, which clean_up can end whole
  "${@:3}" > "$log" 2>&1 < /dev/null &
  background_job=$!
  set +m
  while kill -0 "$background_job" 2> /dev/null; do
    if [ "$SECONDS" -ge "$next" ]; then
      count=$(grep -cE "$2" "$log" || true)
      printf "%s: %4d files compiled, %d s$end" "${0##*/}" "$count" $((SECONDS - started)) >&2
      next=$((SECONDS + interval))
    fi
    sleep 0.5
  done
  wait "$background_job" || status=$?
  background_job=
  [ ! -t 2 ] || echo >&2
  [ "$status" -eq 0 ] || {
    tail -n 30 "$log" >&2
    die "it did not compile (${*:3} ended with status $status; the last lines are above)"
  }
}
