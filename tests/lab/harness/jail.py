"""Jails of the lab's machines: what a host puts there before mayfly-jailer starts the monitor in them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

ALL_JAILS = Path("/srv/mayfly-lab")
MS_BIND, MS_REC, MNT_DETACH = 0x1000, 0x4000, 2


class System:
    """mount(2) and umount2(2), which Python's library does not have."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    @staticmethod
    def _check(result: int, path: Path) -> None:
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))

    def mount(self, source: str, target: Path, kind: str | None, flags: int, options: str | None = None) -> None:
        words = [None if word is None else os.fsencode(word) for word in (source, str(target), kind, options)]
        self._check(self._libc.mount(*words[:3], ctypes.c_ulong(flags), words[3]), target)

    def unmount(self, target: Path) -> None:
        self._check(self._libc.umount2(os.fsencode(target), MNT_DETACH), target)


def make_base() -> None:
    """A file system for all jails; before the first of them where several may be made at once."""
    if not os.path.ismount(ALL_JAILS):
        ALL_JAILS.mkdir(parents=True, exist_ok=True)
        System().mount("none", ALL_JAILS, "tmpfs", 0, "mode=755")


def drop_all() -> None:
    if os.path.ismount(ALL_JAILS):
        System().unmount(ALL_JAILS)


class Jails:
    """Jails of one user. A machine finds what it is given at the same paths as we."""

    def __init__(self, user: int, group: str = "") -> None:
        self.user = user
        self.flags: tuple[str, ...] = ()  # of mayfly-jailer, beside those that every jail has
        self._base = ALL_JAILS / group

    def make(self, identifier: str, shown: Iterable[Path]) -> None:
        make_base()
        system = System()
        root = self._base / "mayfly" / identifier / "root"
        for path in shown:
            inside = Path(f"{root}{path}")
            inside.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                inside.mkdir(exist_ok=True)
            else:
                inside.touch()
            system.mount(str(path), inside, None, MS_BIND | MS_REC)

    def command(self, identifier: str, mayfly: Path) -> list[str]:
        """What becomes the monitor, by the flags that follow."""
        user = str(self.user)
        return [
            str(mayfly.with_name("mayfly-jailer")),
            *("--id", identifier, "--exec-file", str(mayfly), "--uid", user, "--gid", user),
            *("--chroot-base-dir", str(self._base), *self.flags, "--"),
        ]
