"""What is in a root file system, name by name, for two of them to be compared."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

Facts = dict[str, object]
KINDS = {stat.S_IFDIR: "folder", stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFCHR: "char", stat.S_IFBLK: "block",
         stat.S_IFIFO: "fifo"}


def facts_of(path: bytes) -> Facts:
    status = os.lstat(path)
    kind = KINDS[stat.S_IFMT(status.st_mode)]
    facts: Facts = {
        "kind": kind,
        "mode": oct(stat.S_IMODE(status.st_mode)),
        "owner": (status.st_uid, status.st_gid),
        "modified": int(status.st_mtime_ns // 1_000_000_000),
        "xattrs": {name: os.getxattr(path, name, follow_symlinks=False)
                   for name in sorted(os.listxattr(path, follow_symlinks=False))},
    }
    if kind == "file":
        facts["size"] = status.st_size
        with open(path, "rb") as file:
            facts["sha256"] = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else (
                hashlib.sha256(file.read()).hexdigest())
    if kind == "link":
        facts["target"] = os.readlink(path)
    if kind in ("char", "block"):
        facts["device"] = (os.major(status.st_rdev), os.minor(status.st_rdev))
    if kind != "folder":
        facts["names"] = status.st_nlink
    return facts


def listing_of(root: Path) -> dict[bytes, Facts]:
    """By path from the root, which is b"."; hard links have the first of their names, in order, in common."""
    top = os.fsencode(root)
    paths = [b"."]
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            paths.append(os.path.relpath(os.path.join(folder, name), top))
    first: dict[tuple[int, int], bytes] = {}
    listing = {}
    for path in sorted(paths):
        whole = os.path.join(top, path)
        facts = facts_of(whole)
        if facts["kind"] != "folder":
            status = os.lstat(whole)
            facts["same as"] = first.setdefault((status.st_dev, status.st_ino), path)
        listing[path] = facts
    return listing


def differences(ours: dict[bytes, Facts], theirs: dict[bytes, Facts], begun: float) -> list[str]:
    """`begun`: when theirs was begun to be made. A directory of theirs that is younger has no time that a layer gave it: no
    layer has it, or a whiteout in it has changed it. In ours it has the time 0, or its layer's."""
    wrong = [f"{path!r} is in one alone" for path in sorted(ours.keys() ^ theirs.keys())]
    for path in sorted(ours.keys() & theirs.keys()):
        mine, other = dict(ours[path]), dict(theirs[path])
        modified = other["modified"]
        assert isinstance(modified, int)
        if mine["kind"] == "folder" and modified >= int(begun) > mine["modified"]:
            mine["modified"] = modified
        wrong += [f"{path!r}: {key} is {mine.get(key)!r} and should be {other.get(key)!r}"
                  for key in sorted(mine.keys() | other.keys()) if mine.get(key) != other.get(key)]
    return wrong
