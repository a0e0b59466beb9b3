#!/usr/bin/python3
"""A page server of the shape of the dialect's example: SOCKET MEMORY-FILE.

It takes one connection and one message: JSON, with the userfaultfd beside it. The memory file must be exactly as large as
the regions together. It serves faults until the connection ends, which is the end of the machine. Then it prints "the
machine has ended" and how many pages it gave.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import json
import mmap
import os
import select
import socket
import struct
import sys

PAGE_FAULT, REMOVED = 0x12, 0x15  # of struct uffd_msg
COPY, ZEROPAGE = 0xC028AA03, 0xC020AA04  # ioctl(2)
EVENT = struct.Struct("<BBHIQQQ")


def receive(connection: socket.socket) -> tuple[list[dict[str, int]], int]:
    descriptors = array.array("i")
    text, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_LEN(descriptors.itemsize))
    ((level, kind, data),) = ancillary
    assert level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS
    descriptors.frombytes(data)
    return json.loads(text), descriptors[0]


class Memory:
    """The memory file, mapped, and the machine's regions that it is the content of."""

    def __init__(self, path: str, regions: list[dict[str, int]], faults: int) -> None:
        file = os.open(path, os.O_RDONLY)
        size = os.fstat(file).st_size
        assert size == sum(region["size"] for region in regions), "the memory file is not as large as the regions"
        self._content = mmap.mmap(file, size, mmap.MAP_PRIVATE)
        self._begin = ctypes.addressof(ctypes.c_char.from_buffer(self._content))
        self._regions = regions
        self._faults = faults
        self._removed: set[int] = set()
        self.given = 0

    def heed(self) -> None:
        """One event of the userfaultfd."""
        try:
            kind, _, _, _, first, second, _ = EVENT.unpack(os.read(self._faults, EVENT.size))
        except BlockingIOError:  # whoever waited has been woken otherwise
            return
        if kind == REMOVED:
            self._removed.update(range(first, second, mmap.PAGESIZE))
            return
        assert kind == PAGE_FAULT, f"event {kind:#x}"
        self._give(second)

    def _give(self, address: int) -> None:
        (region,) = (each for each in self._regions if 0 <= address - each["base_host_virt_addr"] < each["size"])
        length = region["page_size"]
        page = address // length * length
        source = self._begin + region["offset"] + page - region["base_host_virt_addr"]
        try:
            if page in self._removed:
                fcntl.ioctl(self._faults, ZEROPAGE, struct.pack("<QQQq", page, length, 0, 0))
            else:
                fcntl.ioctl(self._faults, COPY, struct.pack("<QQQQq", page, source, length, 0, 0))
            self.given += 1
        except FileExistsError:  # two vCPUs came to it at once
            pass


def main() -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(sys.argv[1])
    listener.listen(1)
    os.chmod(sys.argv[1], 0o666)  # the machine is another user's
    print("listening", flush=True)
    connection, _ = listener.accept()
    regions, faults = receive(connection)
    memory = Memory(sys.argv[2], regions, faults)
    while True:
        ready = select.select([faults, connection], [], [])[0]
        if faults in ready:
            memory.heed()
        elif connection in ready:
            assert connection.recv(1) == b"", "nothing else is said"
            break
    print(f"the machine has ended: {memory.given} pages", flush=True)
    os._exit(0)  # the mapping has a pointer into it


main()
