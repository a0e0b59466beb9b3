"""The scripts that know the release of the machine: .ci/install-packages, and demo, which calls it."""

from __future__ import annotations

import subprocess

import pytest
from fake_tree import Run, Tree

SENTENCE = "Mayfly supports Debian 12 (bookworm) and Debian 13 (trixie), and this is Ubuntu 24.04.2 LTS"
UBUNTU = 'PRETTY_NAME="Ubuntu 24.04.2 LTS"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\n'
NAMESPACES = ("unshare", "--mount", "--map-root-user")
# "$0" becomes the machine's /etc/os-release.
WITH_RELEASE = 'mount --bind "$0" "$(readlink -f /etc/os-release)" && exec "$@"'


def debian(version: int) -> str:
    return f'PRETTY_NAME="Debian GNU/Linux {version}"\nID=debian\nVERSION_ID="{version}"\n'


class Machine:
    """Every package but one is installed on it."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        tree.copy(".ci/install-packages", "demo")
        # The words that follow the format, but for linux-source.
        tree.fake("bin/dpkg-query", 'for name in "${@:3}"; do [ "$name" = linux-source ] || echo "installed $name"; done')
        tree.fake("bin/apt-get", 'echo "$@" >>asked')

    def run(self, release: str, *command: str, **environment: str) -> Run:
        file = self.tree.path / "os-release"
        file.write_text(release)
        return self.tree.run(*NAMESPACES, "sh", "-c", WITH_RELEASE, str(file), *command, **environment)

    @property
    def asked(self) -> list[str]:
        """The calls of apt-get."""
        file = self.tree.path / "asked"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def machine(tree: Tree) -> Machine:
    if subprocess.run([*NAMESPACES, "true"], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        pytest.skip("no namespaces of one's own are to be had here")
    return Machine(tree)


@pytest.mark.parametrize("version", [12, 13])
def test_debian_gets_a_missing_package_by_the_name_that_stands_for_its_version(machine: Machine, version: int) -> None:
    assert machine.run(debian(version), ".ci/install-packages", "guests").status == 0
    assert [words for words in machine.asked if " install " in words and words.endswith(" linux-source")]


def test_another_release_gets_nothing_but_the_names_of_those_that_are_supported(machine: Machine) -> None:
    run = machine.run(UBUNTU, ".ci/install-packages", "guests")
    assert run.status == 1
    assert SENTENCE in run.said
    assert not machine.asked


def test_an_older_debian_is_not_supported(machine: Machine) -> None:
    assert machine.run(debian(11), ".ci/install-packages", "guests").status == 1
    assert not machine.asked


def test_another_release_is_tried_where_that_is_asked_for(machine: Machine) -> None:
    machine.run(UBUNTU, ".ci/install-packages", "guests", MAYFLY_ANY_RELEASE="1")
    assert [words for words in machine.asked if "linux-source" in words]


def test_the_demo_says_so_before_it_fails(machine: Machine) -> None:
    run = machine.run(UBUNTU, "./demo")
    assert (run.status, run.said.count(SENTENCE)) == (1, 1)
