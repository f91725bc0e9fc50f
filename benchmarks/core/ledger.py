"""The ledger of a workspace: a line for each time that the labels of a fold's test photos were opened.

Nothing is ever taken out of it, so that runs that were repeated, failed or deleted are counted, too. It is
there to remember what is else forgotten. It is no lock: whoever wants to can edit a file.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shlex
import sys
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from whalebench import WhalebenchError
from whalebench.benchmarks.core.copies import LEDGER as FOLDER
from whalebench.benchmarks.core.copies import copy_of
from whalebench.benchmarks.core.files import (
    differs_from_digest,
    digest_text,
    parse_json,
    regular_file,
    with_digest,
)
from whalebench.benchmarks.core.machine import is_program
from whalebench.benchmarks.core.workspace import Workspace, file_lock, refuse_unwritable, sync_to_disk

LEDGER = "ledger.jsonl"
FROM_PYTHON = "from Python"
"""The command of what was not typed."""

Fold = tuple[str, str, str, int]
"""Benchmark, digest of its catalog, digest of its split, number of the fold."""


def typed_command() -> str:
    """The command line as it was typed, but of a path the last name only, and of a URL how it begins."""
    if not is_program(sys.argv[0]):
        return FROM_PYTHON
    return shlex.join(["whalebench", *map(without_place, sys.argv[1:])])


def without_place(argument: str) -> str:
    """An argument without what only says where something lies.

    >>> without_place("weights=/home/ann/w.safetensors"), without_place("postgresql://ann:secret@host/db")
    ('weights=w.safetensors', 'postgresql://...')
    """
    hidden = re.sub(r"(\w+://)(?!\.\.\.).*", r"\1...", argument)
    return re.sub(r"(^|[=,:])(?:~|[A-Za-z]:)?[/\\](?!/)(?:[^/\\,=]+[/\\])*", r"\1", hidden)


class Opening(BaseModel):
    """One time that test labels were opened: by what, of which fold, and how it was asked for."""

    model_config = ConfigDict(frozen=True)

    method: str
    settings: str
    """Digest of the resolved configuration."""
    benchmark: str
    catalog_digest: str
    split_digest: str
    fold: int
    seed: int
    run: str
    """The run that was scored or, by `whalebench explain`, looked into; it may be gone by now."""
    when: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """ISO 8601, UTC."""
    command: str = Field(default_factory=typed_command)
    forced: bool = False
    """Whether it was asked for though there was an answer already."""

    def line(self) -> str:
        """The entry as a line of the ledger, with a digest of itself; ends in a line end."""
        return json.dumps(with_digest(self.model_dump(mode="json"))) + "\n"

    @classmethod
    def of(cls, facts: Mapping[str, Any], *, forced: bool) -> Opening:
        """That of a run, by fields of its record; now, and by the command that was typed."""
        settings = digest_text(json.dumps(facts["config"], sort_keys=True))[:16]
        named = {name: facts[name] for name in cls.model_fields if name in facts}
        return cls(**named | {"settings": settings, "forced": forced})


class Ledger(NamedTuple):
    """What was written down, and a sentence on lines that cannot be read."""

    entries: list[Opening]
    problems: list[str]

    def openings(self) -> Counter[Fold]:
        """How often the test labels of each fold were opened."""
        return Counter(
            (each.benchmark, each.catalog_digest, each.split_digest, each.fold) for each in self.entries
        )


def append(workspace: Workspace, entry: Opening) -> None:
    """Adds the entry as one line, which is on the disk before this returns, or at the workspace's URL.

    There it is a file of its own, so that no machine overwrites what another one has written down. Raises
    WhalebenchError where it cannot: what is not written down must not be looked at.
    """
    if copy := copy_of(workspace.root):
        name = f"{re.sub(r'[^0-9T]', '', entry.when[:19])}-{secrets.token_hex(6)}.json"
        copy.add_opening(name, entry.line().encode())
        return
    file = workspace.root / LEDGER
    kept = "then give the same command again: no test labels are opened unless that is written down"
    with refuse_unwritable(file, kept), file_lock(workspace.cache / f"{LEDGER}.lock"):
        # A line that was torn by a power cut must not swallow this one.
        torn = file.exists() and file.read_bytes()[-1:] not in (b"", b"\n")
        line = ("\n" * torn + entry.line()).encode()
        with file.open("ab", buffering=0) as opened:
            before = opened.tell()
            if opened.write(line) != len(line):  # as much as there was room for
                opened.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync_to_disk(file)


def read_ledger(runs: Path) -> Ledger:
    """The ledger beside a workspace's folder of runs; empty where there is none.

    A line that cannot be read, or differs from its digest, is a problem; older lines have none.
    """
    file, folder = runs.parent / LEDGER, runs.parent / FOLDER
    try:
        lines = regular_file(file).read_bytes().splitlines() if file.exists() else []
        lines += [line for each in sorted(folder.glob("*.json")) for line in each.read_bytes().splitlines()]
    except OSError as error:
        raise WhalebenchError(f"{file} cannot be read ({error.strerror or error}); restore it.") from error
    file = file if file.exists() else folder
    entries, broken = [], []
    for number, line in enumerate(lines, start=1):
        try:
            said = parse_json(line)
            if differs_from_digest(said):
                raise ValueError("it differs from its digest")
            entries.append(Opening.model_validate(said))
        except (ValueError, AttributeError):  # not JSON, damaged, or no object
            broken.append(number)
    if not broken:
        return Ledger(entries, [])
    problem = f"{len(broken)} line(s) of {file} are damaged, first line {broken[0]}: they are not counted."
    return Ledger(entries, [problem])
