"""What is shown while a run works: every stage in words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import whalebench
from whalebench.reports.console import STAGES, stage_words

ROOT = Path(whalebench.__file__).parent


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train", "Training"),
        ("cycle_2.train", "Training, cycle 2"),
        ("half.cycle_2.gallery", "Embedding the gallery, half, cycle 2"),
        ("softmax-2.train", "Training, softmax-2"),
        ("cycle_1.train, taken up after epoch 3", "Training, cycle 1, taken up after epoch 3"),
        ("train, not kept: /a/b.c is full", "Training, not kept: /a/b.c is full"),
        ("odd", "odd"),
        ("Trial 3: dropout=0.1 size=32", "Trial 3: dropout=0.1 size=32"),
        ("Waiting for trial 3, 4 of other workers", "Waiting for trial 3, 4 of other workers"),
    ],
)
def test_stages_are_shown_in_words(name: str, words: str) -> None:
    assert stage_words(name) == words


def test_every_stage_of_the_package_has_a_phrase() -> None:
    files = [file for room in ("benchmarks", "methods") for file in (ROOT / room).rglob("*.py")]
    sources = "\n".join(file.read_text(encoding="utf-8") for file in [ROOT / "cli.py", *files])
    stages = set(re.findall(r"\.stage\(\"([^\"]*)\"\)", sources))
    stages |= set(re.findall(r"^    artefact, needs = \"(\w+)\", \"\w+\"$", sources, flags=re.M))
    assert len(stages) > 15
    assert stages - {""} <= STAGES.keys()
