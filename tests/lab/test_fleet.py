"""A fleet of hosts with different CPUs: labs of different models of QEMU's, between which snapshots of a guest travel."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.guests import build_initrd, tool

# Six starts of a lab, where others keep the machine busy.
pytestmark = pytest.mark.timeout(3600)

LAB = Path(__file__).parent / "lab"
ON_A_MODEL = Path(__file__).parent / "on_a_model.py"

# None has all that another has. The third is Intel's model under AMD's name: AMD's older ones do not boot in the lab.
MILAN, NAPLES, THIRD = "EPYC-Milan", "EPYC", "Haswell-noTSX,vendor=AuthenticAMD"
MODELS = (MILAN, NAPLES, THIRD)
OF_MILAN_ALONE = {"clwb", "umip", "pku", "xsave_pkru"}


def in_lab(model: str, share: Path, *words: str | Path) -> str:
    """Standard output of a command in a lab of that model."""
    ended = subprocess.run(
        [LAB, "--no-native", "--cpu", model, "--cpus", "1", "--timeout", "600", "--share", share, "--", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, f"{words} on {model} ended with {ended.returncode}: {ended.stdout}{ended.stderr}"
    return ended.stdout


@dataclass
class Fleet:
    mayfly: Path
    room: Path  # every lab's share
    kernel: Path
    initrd: Path

    def features(self, model: str, name: str) -> Path:
        """What Mayfly prints of that model, as a file."""
        path = self.room / name
        path.write_text(in_lab(model, self.room, self.mayfly, "doctor", "--cpu"))
        return path

    def boot(self, *named: str) -> list[str | Path]:
        """A command: each is NAME, or NAME=CPU_CONFIG; leaves snapshots of those names."""
        return ["boot", self.kernel, self.initrd, *named]

    def run(self, model: str, *commands: Sequence[str | Path]) -> Any:
        """What comes of each, in one lab."""
        words = [word for command in commands for word in ("--", *command)]
        return json.loads(in_lab(model, self.room, sys.executable, ON_A_MODEL, self.mayfly, *words))


@pytest.fixture(scope="module")
def fleet(mayfly: Path, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    room = tmp_path_factory.mktemp("fleet")
    kernel = tool("build-kernel", "--print-path")
    return Fleet(mayfly, room, kernel, build_initrd(room / "initrd"))


@pytest.fixture(scope="module")
def files(fleet: Fleet) -> list[Path]:
    """What Mayfly prints of each model."""
    return [fleet.features(model, f"{number}.json") for number, model in enumerate(MODELS)]


def in_common(fleet: Fleet, files: Sequence[Path]) -> str:
    return subprocess.run([fleet.mayfly, "doctor", "--cpu", *files], stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.fixture(scope="module")
def common(fleet: Fleet, files: list[Path]) -> Path:
    path = fleet.room / "common.json"
    path.write_text(in_common(fleet, files))
    return path


RESTORE = ("restore", "everywhere", "here")


@pytest.fixture(scope="module")
def on_milan(fleet: Fleet, common: Path) -> Any:
    """Two snapshots: of a machine with what all have, and of one with all that Milan has; and both restored."""
    return fleet.run(MILAN, fleet.boot(f"everywhere={common}", "here"), RESTORE)


@pytest.fixture(scope="module")
def booted(on_milan: Any) -> Any:
    return on_milan[0]


@pytest.fixture(scope="module")
def on_naples(fleet: Fleet, on_milan: Any, files: list[Path]) -> Any:
    """Milan's snapshots restored; then machines booted with what Milan has, and with what Naples has."""
    milan, naples, _ = files
    return fleet.run(NAPLES, RESTORE, fleet.boot(f"milan={milan}", f"naples={naples}"))


@pytest.fixture(scope="module")
def restored(fleet: Fleet, on_milan: Any, on_naples: Any) -> dict[str, Any]:
    """What becomes of both on each model."""
    return {MILAN: on_milan[1], NAPLES: on_naples[0], THIRD: fleet.run(THIRD, RESTORE)[0]}


def assert_went_on(said: dict[str, Any], flags: list[str]) -> None:
    assert "refused" not in said, said["refused"]
    assert said["flags"] == flags
    assert said["digest"] == hashlib.sha256(bytes(3_000_000)).hexdigest()
    assert said["sum"] == str(3 * 2000 * 2001 // 4)


def lacking(sentence: str) -> set[str]:
    """The features that a refusal of a load names."""
    named = sentence.partition("the guest was shown ")[2].partition(", and this host does not have that")[0]
    return set(named.split(", "))


def test_what_is_in_common_is_less_than_any_and_in_no_order(fleet: Fleet, files: list[Path], common: Path) -> None:
    printed = {path.read_text() for path in (*files, common)}
    assert len(printed) == len(MODELS) + 1, "none of the models has all that another has"
    for inputs in (files[::-1], [common, *files], [common]):
        assert in_common(fleet, inputs) == common.read_text()


def test_a_machine_of_what_is_in_common_is_restored_on_each_model(booted: Any, restored: dict[str, Any]) -> None:
    flags = booted["everywhere"]["flags"]
    assert {"aes", "bmi2", "fsgsbase", "sse4_2"} <= set(flags)
    assert not {"adx", "clflushopt", "clwb", "erms", "smap", "umip"} & set(flags)
    for model in MODELS:
        assert_went_on(restored[model]["everywhere"], flags)


def test_a_machine_of_all_that_its_host_has_is_refused_elsewhere_by_names(booted: Any, restored: dict[str, Any]) -> None:
    flags = booted["here"]["flags"]
    assert {"adx", "clwb", "erms", "smap", "umip"} <= set(flags)
    assert_went_on(restored[MILAN]["here"], flags)
    naples, third = restored[NAPLES]["here"], restored[THIRD]["here"]
    assert lacking(naples["refused"]) == OF_MILAN_ALONE | {"erms"}, naples["refused"]
    assert OF_MILAN_ALONE | {"smap", "adx", "clflushopt"} <= lacking(third["refused"]), third["refused"]
    assert not {"erms", "avx2", "aes", "lm"} & lacking(third["refused"])
    for refused in (naples, third):
        assert "the snapshot's was AuthenticAMD, family 0x19, model 0x1" in refused["refused"]
        assert refused["state"] == "Not started"


def test_a_machine_does_not_start_with_what_another_host_has(on_naples: Any) -> None:
    said = on_naples[1]
    assert "flags" in said["naples"]
    assert said["milan"]["state"] == "Not started"
    sentence = said["milan"]["refused"]
    named = sentence.partition("cpu-config shows the guest ")[2].partition(", and this host does not have that")[0]
    assert set(named.split(", ")) == OF_MILAN_ALONE | {"erms"}, sentence
