"""What takes long is kept for the next run, as rootfs-tools/cache.sh does, in the same place."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

MOST_ENTRIES = 8  # of one kind: each build of the product needs others


def cache_root() -> Path:
    own = os.environ.get("MAYFLY_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mayfly"


def cached(kind: str, key: str, fill: Callable[[Path], None]) -> Path:
    """The cache's directory KIND/KEY. Where it is missing, `fill` fills a new one, which gets that name when it is complete. Runs
    wait for each other, and the entries of a kind that were not asked for longest are removed."""
    folder = cache_root() / kind
    folder.mkdir(parents=True, exist_ok=True)
    entry = folder / key
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not entry.exists():
            filling = folder / ".filling"  # under the lock, what lies here is of a run that was killed
            shutil.rmtree(filling, ignore_errors=True)
            filling.mkdir()
            fill(filling)
            filling.rename(entry)
        os.utime(entry)
        for old in sorted(folder.iterdir(), key=lambda each: each.stat().st_mtime)[:-MOST_ENTRIES]:
            shutil.rmtree(old)
    finally:
        os.close(lock)
    return entry
