# Microvms for the tests that run inside the lab (or on a host with hardware virtualization), each driven by curl, as a
# host agent would. To be sourced, by a script that has set: mayfly (the binary), work (a directory for its files); and may
# have set jailed (no: not jailed) and, for machines in jails, shown (files from elsewhere that they are given), jail_uid
# and jail_group (below which an id need not be another than in other groups).

passed=0 failed=0
readonly patience=240 # seconds for anything that a software CPU does

# --- Its jail --------------------------------------------------------------------------------------------------------

# As machines are run in production, where we may: root alone makes jails.
[ "$(id -u)" -eq 0 ] || jailed=no
readonly jailed=${jailed:-yes}
readonly all_jails=/srv/mayfly-lab jail_uid=${jail_uid:-30007}
readonly jails=$all_jails${jail_group:+/$jail_group}
tap_owner=()
[ "$jailed" = no ] || tap_owner=(user "$jail_uid")

# Before the first is made, where several may be made at once.
make_base() { mountpoint -q "$all_jails" || { mkdir -p "$all_jails" && mount -t tmpfs -o mode=755 none "$all_jails"; }; }
# What a host puts into a jail beforehand, so that a machine finds what it is given at the same path as we: make_jail ID
make_jail() {
  local root=$jails/mayfly/$1/root path
  make_base || return 1
  for path in "$work" "${shown[@]}"; do
    mkdir -p "$root${path%/*}" && if [ -d "$path" ]; then mkdir -p "$root$path"; else : >>"$root$path"; fi &&
      mount --rbind "$path" "$root$path" || return 1
  done
}
# What becomes the monitor, by the arguments that follow: in_jail ID
in_jail() {
  command=("${mayfly%/*}/mayfly-jailer" --id "$1" --exec-file "$mayfly" --uid "$jail_uid" --gid "$jail_uid"
    --chroot-base-dir "$jails" --)
}
drop_jails() { ! mountpoint -q "$all_jails" || umount -l "$all_jails"; }
# What is there by now is the machine's to write.
give_files() { [ "$jailed" = no ] || chown -R "$jail_uid:$jail_uid" "$work"; }

# --- One machine -----------------------------------------------------------------------------------------------------

machine=0 # number of the machine, for file names
launcher=() # a command that ends by executing the one that follows it
start_monitor() {
  machine=$((machine + 1))
  sock=$work/$machine.sock console=$work/$machine.console log=$work/$machine.log keys=$work/$machine.keys
  mkfifo "$keys"
  : >"$console"
  exec 8<>"$keys"
  local command=("$mayfly" --id "lab-$machine")
  if [ "$jailed" = yes ]; then make_jail "lab-$machine" && give_files && in_jail "lab-$machine" || return 1; fi
  "${launcher[@]}" "${command[@]}" --api-sock "$sock" "$@" <"$keys" >"$console" 2>"$log" &
  monitor=$!
  # Retries while nobody listens yet; the first answer ends it.
  curl -sf --retry 100 --retry-delay 0 --retry-all-errors --retry-max-time 60 --unix-socket "$sock" \
    http://localhost/ -o "$work/answer" || return 1
}

# request METHOD PATH [BODY]: succeeds where the answer is 2xx; the answer's body is in $work/answer.
request() {
  local code
  give_files
  code=$(curl -s --max-time 60 --unix-socket "$sock" -X "$1" ${3:+-d "$3"} -o "$work/answer" -w '%{http_code}' \
    "http://localhost$2") || return 1
  [ "${code:0:1}" = 2 ] || { echo "$1 $2 answered $code: $(cat "$work/answer")"; return 1; }
}

# boot KERNEL INITRD VCPUS MIB ARGUMENTS
boot() {
  request PUT /machine-config "{\"vcpu_count\": $3, \"mem_size_mib\": $4}" &&
    request PUT /boot-source "$(jq -n --arg k "$1" --arg i "$2" --arg a "$5" \
      '{kernel_image_path: $k, initrd_path: $i, boot_args: $a}')" &&
    request PUT /actions '{"action_type": "InstanceStart"}'
}

# Waits until the console says something.
console_says() {
  timeout "$patience" grep -qm1 -- "$1" < <(exec tail -n +1 -f --pid="$monitor" "$console") ||
    { grep -q -- "$1" "$console" || { echo "the console does not say: $1"; return 1; }; }
}

# Waits for the monitor's end, and compares its exit code.
ends_with() {
  local code=0
  timeout "$patience" tail -f --pid="$monitor" /dev/null
  if kill -0 "$monitor" 2>/dev/null; then
    kill -KILL "$monitor"
    wait "$monitor" 2>/dev/null
    echo "the monitor did not end"
    return 1
  fi
  wait "$monitor" || code=$?
  [ "$code" -eq "$1" ] || { echo "the monitor's exit code is $code, not $1"; return 1; }
}

# --- Its devices -----------------------------------------------------------------------------------------------------

put_drive() { # ID PATH [MORE-FIELDS]
  request PUT "/drives/$1" "{\"drive_id\": \"$1\", \"path_on_host\": \"$2\", \"is_root_device\": false${3:+, $3}}"
}
put_interface() { # ID TAP [MORE-FIELDS]
  request PUT "/network-interfaces/$1" "{\"iface_id\": \"$1\", \"host_dev_name\": \"$2\"${3:+, $3}}"
}

go() { request PUT /actions '{"action_type": "InstanceStart"}'; }

guest_says() { grep -q -- "$1" "$console" || { echo "the guest did not say: $1"; return 1; }; }

make_tap() { # NAME ADDRESS [MTU]
  drop_tap "$1" # what a case that failed has left
  ip tuntap add "$1" mode tap vnet_hdr "${tap_owner[@]}" && ip link set "$1" mtu "${3:-1500}" up && ip addr add "$2" dev "$1"
}
drop_tap() { ip link del "$1" 2>/dev/null || true; }

base="console=ttyS0 quiet reboot=k panic=1 i8042.noaux i8042.nomux i8042.dumbkbd"
# In the software lab KVM loses a deadline timer about once in 40 starts of a guest with two vCPUs: the deadline has
# passed, no timer of the host's is queued, and both vCPUs sleep for half a minute or longer. QEMU's guests there hang at
# the same rate; with the LAPIC's other timer none did in 200 starts.
[ "${MAYFLY_LAB:-}" != software ] || base="$base lapic=notscdeadline"

# --- Cases -----------------------------------------------------------------------------------------------------------

declare -A cases
order=()
# add NAME FUNCTION [ARGUMENT...]
add() { order+=("$1"); cases[$1]=$(printf '%q ' "${@:2}"); }

# run_cases [--list | CASE...]: all of them without an argument. Ends with the count.
run_cases() {
  if [ "${1:-}" = --list ]; then
    printf '%s\n' "${order[@]}"
    return
  fi
  [ $# -gt 0 ] || set -- "${order[@]}"
  local name begin output
  for name in "$@"; do
    begin=$SECONDS console=/dev/null log=/dev/null monitor=0
    output=$work/output
    [ -n "${cases[$name]:-}" ] || { echo "there is no case $name" >&2; exit 2; }
    if eval "${cases[$name]}" >"$output" 2>&1; then
      passed=$((passed + 1))
      echo "ok      $name ($((SECONDS - begin)) s)"
    else
      failed=$((failed + 1))
      echo "FAILED  $name ($((SECONDS - begin)) s): $(cat "$output")"
      tail -n 15 "$console" "$log" | cut -c1-4000 | sed 's/^/  | /'
      [ "$monitor" -eq 0 ] || kill -KILL "$monitor" 2>/dev/null
    fi
    exec 8>&-
    drop_jails
  done
  echo "$passed passed, $failed failed"
  [ "$failed" -eq 0 ]
}
