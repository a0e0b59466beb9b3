#!/bin/bash
# The steps of Firecracker's getting-started page, by curl, with another binary and another guest.
#
#   getting_started.sh MONITOR KERNEL ROOTFS DIRECTORY
#
# The TAP tap0 is there. Says "call NAME passed|refused" for each request.
set -euo pipefail
monitor=$1 kernel=$2 rootfs=$3
cd "$4"

API_SOCKET=$PWD/firecracker.socket
rm -f "$API_SOCKET"
"$monitor" --api-sock "$API_SOCKET" < /dev/null > console &
trap 'kill %1 2> /dev/null || true' EXIT
for ((look = 0; look < 600; look++)); do
  [ ! -S "$API_SOCKET" ] || break
  read -rt 0.1 <> <(:) || true
done

# put PATH BODY: as the page has it.
put() {
  curl -fsS -X PUT --unix-socket "$API_SOCKET" --data "$2" "http://localhost$1"
  echo "call PUT $1 passed"
}

LOGFILE=./firecracker.log
touch $LOGFILE
put /logger "{\"log_path\": \"$LOGFILE\", \"level\": \"Debug\", \"show_level\": true, \"show_log_origin\": true}"
put /boot-source "{\"kernel_image_path\": \"$kernel\", \"boot_args\": \"console=ttyS0 reboot=k panic=1\"}"
put /drives/rootfs "{\"drive_id\": \"rootfs\", \"path_on_host\": \"$rootfs\", \"is_root_device\": true, \"is_read_only\": false}"
put /network-interfaces/net1 '{"iface_id": "net1", "guest_mac": "06:00:AC:10:00:02", "host_dev_name": "tap0"}'
put /actions '{"action_type": "InstanceStart"}'
# The guest listens to its keyboard once it has set that up.
until curl -fs -X PUT --unix-socket "$API_SOCKET" --data '{"action_type": "SendCtrlAltDel"}' http://localhost/actions; do
  kill -0 %1
done
echo "call PUT /actions passed"
wait %1
grep -q listening console
