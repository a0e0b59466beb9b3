"""Files that are made on this machine for cases that run in a lab: kernels, images, archives.

    @artifact
    def initrd(directory: Path) -> Path:
        ...makes a file in the directory, or says where one is

A case gets the path by naming the artifact, as it does with any fixture. It is made once a run, before the first lab
starts, and only if a selected case names it. The lab shows this machine's files at the same paths.

A maker gets a directory for its file. By the parameters `build` and `lab` it asks for the directory of what is tested, and for
the program that runs a command in a lab.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

Maker = Callable[..., Path]

MAKERS: dict[str, Maker] = {}
GIVEN = pytest.StashKey[dict[str, str]]()  # paths by name, inside the lab


def artifact(make: Maker) -> Callable[[pytest.FixtureRequest], Path]:
    name = make.__name__
    MAKERS[name] = make

    @pytest.fixture(scope="session", name=name)
    def given(request: pytest.FixtureRequest) -> Path:
        return Path(request.config.stash[GIVEN][name])

    given.__doc__ = make.__doc__
    return given


def named_by(items: list[pytest.Item]) -> list[str]:
    """The artifacts that cases name, or that fixtures of theirs do."""
    names = {name for item in items for name in getattr(item, "fixturenames", ()) if name in MAKERS}
    return sorted(names)


def make(name: str, directory: Path, **known: Path) -> Path:
    maker = MAKERS[name]
    wanted = inspect.signature(maker).parameters
    return maker(directory, **{key: value for key, value in known.items() if key in wanted})
