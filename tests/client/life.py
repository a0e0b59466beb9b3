#!/usr/bin/python3
"""Drives a Linux guest through its whole life by the API, with `requests`: nothing in it knows Mayfly.

    life.py MONITOR KERNEL INITRD ROOT-IMAGE TAP DIRECTORY

The TAP is up and has 10.9.0.1/24. Says what it does; ends with 0 where all went well.
"""

import http.server
import json
import os
import re
import selectors
import socket
import subprocess
import sys
import threading
import time

import requests
import urllib3

PATIENCE = 240  # seconds for anything that a software CPU does
HOST, GUEST, MAC = "10.9.0.1", "10.9.0.2", "06:00:0a:09:00:02"
# See tests/lab/harness/machine.py for the one with lapic.
ARGUMENTS = "console=ttyS0 quiet reboot=k panic=1 i8042.noaux i8042.nomux i8042.dumbkbd"


# --- requests over a Unix socket -------------------------------------------------------------------------------------


class Connection(urllib3.connection.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self.path)


class Pool(urllib3.connectionpool.HTTPConnectionPool):
    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def _new_conn(self):
        return Connection(self.path)


class UnixAdapter(requests.adapters.HTTPAdapter):
    def __init__(self, path):
        super().__init__()
        self.pool = Pool(path)

    def get_connection(self, url, proxies=None):
        return self.pool

    # What newer versions of requests call.
    def get_connection_with_tls_context(self, request, verify, proxies=None, cert=None):
        return self.pool


# --- One machine -----------------------------------------------------------------------------------------------------


class Refused(Exception):
    def __init__(self, answer):
        super().__init__(f"{answer.request.method} {answer.request.path_url}: {answer.status_code} {answer.text}")
        self.status = answer.status_code
        self.sentence = answer.json()["fault_message"]


class Machine:
    """A process of the monitor, its API and its guest's console."""

    def __init__(self, monitor, directory, name):
        self.name = name
        self.said = b""
        socket_path = os.path.join(directory, name + ".socket")
        self.fifos = {}
        for what in ("log", "metrics"):
            path = os.path.join(directory, f"{name}.{what}")
            os.mkfifo(path)
            self.fifos[what] = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.process = subprocess.Popen(
            [monitor, "--api-sock", socket_path, "--id", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.mount("http://machine/", UnixAdapter(socket_path))
        self.wait_for_socket(socket_path)
        self.put("/logger", log_path=os.path.join(directory, name + ".log"), level="Debug", show_level=True)
        self.put("/metrics", metrics_path=os.path.join(directory, name + ".metrics"))

    def wait_for_socket(self, path):
        deadline = time.monotonic() + PATIENCE
        with socket.socket(socket.AF_UNIX) as probe:
            while probe.connect_ex(path) != 0:
                assert time.monotonic() < deadline and self.process.poll() is None, "the monitor does not listen"
                os.sched_yield()

    def call(self, method, path, body=None):
        answer = self.session.request(method, "http://machine" + path, json=body, timeout=PATIENCE)
        if answer.status_code != (200 if method == "GET" else 204):
            raise Refused(answer)
        return answer.json() if method == "GET" else None

    def get(self, path):
        return self.call("GET", path)

    def put(self, path, **body):
        self.call("PUT", path, body)

    def patch(self, path, **body):
        self.call("PATCH", path, body)

    def action(self, name):
        self.put("/actions", action_type=name)

    def type(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def wait_for(self, pattern):
        deadline = time.monotonic() + PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not re.search(pattern, self.said.decode(errors="replace")):
                ready = selector.select(max(0, deadline - time.monotonic()))
                more = os.read(self.process.stdout.fileno(), 65536) if ready else b""
                if not more:
                    raise AssertionError(f"the guest does not say {pattern!r}; it said:\n{self.said.decode()}")
                self.said += more

    def ask(self, line, pattern):
        """The terminal shows typed lines, too: a pattern must not match its own command."""
        self.type(line)
        self.wait_for(pattern)

    def from_fifo(self, what):
        return os.read(self.fifos[what], 1 << 16).decode()

    def ends_with(self, code):
        self.process.stdin.close()
        self.process.stdout.read()
        assert self.process.wait(PATIENCE) == code, f"the monitor's exit code is {self.process.returncode}"


def refused(call, words):
    try:
        call()
    except Refused as refusal:
        assert refusal.status == 400 and re.search(words, refusal.sentence), refusal
    else:
        raise AssertionError(f"not refused, though {words}")


# --- What is done, in this order -------------------------------------------------------------------------------------


def configure(machine, kernel, initrd, root, tap, small):
    machine.put("/machine-config", vcpu_count=2, mem_size_mib=256, smt=False, track_dirty_pages=True)
    machine.patch("/machine-config", mem_size_mib=192)
    machine.put("/boot-source", kernel_image_path=kernel, initrd_path=initrd, boot_args=ARGUMENTS)
    limit = {"size": 100 << 20, "refill_time": 1000}
    machine.put("/drives/root", drive_id="root", path_on_host=root, is_root_device=True, is_read_only=True)
    machine.put(
        "/drives/data",
        drive_id="data",
        path_on_host=small,
        is_root_device=False,
        cache_type="Writeback",
        io_engine="Async",
        rate_limiter={"bandwidth": limit, "ops": limit},
    )
    machine.put(
        "/network-interfaces/net", iface_id="net", host_dev_name=tap, guest_mac=MAC, rx_rate_limiter={"bandwidth": limit}
    )
    machine.put("/mmds/config", version="V1", network_interfaces=["net"])
    machine.put("/mmds", name="first")
    assert machine.get("/machine-config")["mem_size_mib"] == 192
    assert len(machine.get("/vm/config")["drives"]) == 2
    assert machine.get("/version")["firecracker_version"]
    refused(lambda: machine.put("/machine-config", vcpu_count=0, mem_size_mib=1), "vcpu_count must be from 1")
    refused(lambda: machine.put("/balloon", amount_mib=1, deflate_on_oom=True), "has no")


def network(machine):
    """The guest asks a server of ours, which sees who asks."""
    guests = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            guests.append(self.client_address[0])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"from the host: %d\n" % (6 * 7))

        def log_message(self, *_):
            pass

    with http.server.HTTPServer((HOST, 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        machine.ask(f"wget -q -O - http://{HOST}:{server.server_port}/", "from the host: 42")
        server.shutdown()
    assert guests == [GUEST], guests
    machine.patch("/network-interfaces/net", iface_id="net", tx_rate_limiter={"ops": {"size": 10**6, "refill_time": 1000}})


def metadata(machine):
    question = "echo It is $(wget -q -O - http://169.254.169.254/name)."
    machine.type("ip route add 169.254.169.254 dev eth0")
    machine.ask(question, r"It is first\.")
    machine.patch("/mmds", name="second")
    assert machine.get("/mmds") == {"name": "second"}
    machine.ask(question, r"It is second\.")


def drives(machine, small, large):
    machine.ask("head -n 1 /dev/vdb; cat /sys/block/vdb/size", r"the small image\s+2048\s")
    machine.ask(
        "echo written by $((40 + 2)) | dd of=/dev/vdb bs=512 seek=1 conv=sync,fsync 2> /dev/null; echo wrote $?", "wrote 0"
    )
    with open(small, "rb") as image:
        assert image.read()[512:].startswith(b"written by 42\n"), "the image does not have what the guest wrote"
    machine.patch("/drives/data", drive_id="data", path_on_host=large)
    machine.ask(
        "while [ $(cat /sys/block/vdb/size) = 2048 ]; do sleep 1; done; head -n 1 /dev/vdb; cat /sys/block/vdb/size",
        r"the large image\s+6144\s",
    )


def pause_and_snapshot(machine, state, memory):
    """Leaves a word in the guest's memory that only a clone can say."""
    machine.ask("word=remembered; echo noted $((1 + 1))", "noted 2")
    create = {"snapshot_path": state, "mem_file_path": memory, "snapshot_type": "Full"}
    refused(lambda: machine.put("/snapshot/create", **create), "paused")
    machine.patch("/vm", state="Paused")
    assert machine.get("/")["state"] == "Paused"
    machine.put("/snapshot/create", **create)
    machine.patch("/vm", state="Resumed")
    machine.ask("echo goes on: $((4 + 4))", "goes on: 8")


def shut_down(machine):
    """Ctrl-Alt-Del; the monitor's end is a good one, and what it said has come through the FIFOs."""
    machine.action("FlushMetrics")
    counted = [json.loads(line) for line in machine.from_fifo("metrics").splitlines()]
    assert sum(each["net"]["tx_packets_count"] for each in counted) > 0, counted
    machine.action("SendCtrlAltDel")
    machine.ends_with(0)
    assert f"[{machine.name}:INFO] " in machine.from_fifo("log")


def clone(machine, state, memory):
    machine.put(
        "/snapshot/load",
        snapshot_path=state,
        mem_backend={"backend_type": "File", "backend_path": memory},
        track_dirty_pages=True,
        resume_vm=True,
    )
    assert machine.get("/")["state"] == "Running"
    machine.ask("echo the word: $word", "the word: remembered")
    network(machine)
    machine.patch("/vm", state="Paused")
    machine.put("/snapshot/create", snapshot_path=state + "-diff", mem_file_path=memory + "-diff", snapshot_type="Diff")
    machine.patch("/vm", state="Resumed")
    machine.ask("echo goes on: $((5 + 5))", "goes on: 10")
    shut_down(machine)


def main():
    monitor, kernel, initrd, root, tap, directory = sys.argv[1:]
    small, large, state, memory = (os.path.join(directory, name) for name in ("small", "large", "state", "memory"))
    for path, words, size in ((small, "the small image\n", 1 << 20), (large, "the large image\n", 3 << 20)):
        with open(path, "w") as image:
            image.write(words)
            image.truncate(size)

    machines = []

    def new_machine(name):
        machines.append(Machine(monitor, directory, name))
        return machines[-1]

    def start(machine):
        machine.action("InstanceStart")
        machine.wait_for("mayfly-init: ready .*cpus=2")
        machine.ask(f"ip addr add {GUEST}/24 dev eth0; ip link set eth0 up; echo ready $((40 + 2))", "ready 42")

    try:
        parent = new_machine("parent")
        for name, step in (
            ("configure", lambda: configure(parent, kernel, initrd, root, tap, small)),
            ("start", lambda: start(parent)),
            ("network", lambda: network(parent)),
            ("metadata", lambda: metadata(parent)),
            ("drives", lambda: drives(parent, small, large)),
            ("snapshot", lambda: pause_and_snapshot(parent, state, memory)),
            ("shutdown", lambda: shut_down(parent)),
            ("clone", lambda: clone(new_machine("clone"), state, memory)),
        ):
            begin = time.monotonic()
            try:
                step()
            except BaseException:
                print(f"life.py: {name}:", file=sys.stderr, flush=True)
                raise
            print(f"{name}: {int((time.monotonic() - begin) * 1000)} ms", flush=True)
    finally:
        for machine in machines:
            machine.process.kill()


if __name__ == "__main__":
    main()
