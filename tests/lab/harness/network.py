"""TAPs and bridges, in the network namespace that a batch of cases has for itself."""

from __future__ import annotations

import json
import subprocess


def ip(*commands: str, namespace: str | None = None) -> None:
    """Commands of ip(8), one after the other."""
    where = [] if namespace is None else ["-n", namespace]
    subprocess.run(["ip", *where, "-batch", "-"], input="\n".join(commands), text=True, check=True)


class Network:
    """What a case makes with it is gone at its end."""

    def __init__(self, owner: int | None) -> None:
        self._owner = "" if owner is None else f" user {owner}"
        self._links: list[str] = []

    def tap(self, name: str, address: str, mtu: int = 1500) -> None:
        self._links.append(name)
        ip(*self._tap_commands(name), f"link set {name} mtu {mtu} up", f"addr add {address} dev {name}")

    def _tap_commands(self, name: str) -> list[str]:
        return [f"tuntap add {name} mode tap vnet_hdr{self._owner}"]

    def bridge(self, name: str, *taps: str) -> None:
        """With a TAP a port."""
        self._links += [name, *taps]
        ip(f"link add {name} type bridge", f"link set {name} up")
        for tap in taps:
            ip(*self._tap_commands(tap), f"link set {tap} master {name} up")

    def namespace_with_tap(self, namespace: str, tap: str, address: str) -> None:
        """To be deleted by its caller."""
        ip(f"netns add {namespace}")
        ip(*self._tap_commands(tap), f"link set {tap} up", f"addr add {address} dev {tap}", namespace=namespace)

    def drop(self, name: str) -> None:
        self._links.remove(name)
        ip(f"link del {name}")

    def drop_all(self) -> None:
        for name in reversed(self._links):
            # A case that failed may not have got as far.
            subprocess.run(["ip", "link", "del", name], stderr=subprocess.DEVNULL, check=False)
        self._links.clear()


def frames_received(tap: str) -> int:
    """The frames that a guest has sent into its TAP."""
    shown = subprocess.run(["ip", "-json", "-statistics", "link", "show", "dev", tap], stdout=subprocess.PIPE, check=True)
    return int(json.loads(shown.stdout)[0]["stats64"]["rx"]["packets"])
