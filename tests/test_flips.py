"""A small part of the flips: `make faults` does five hundred of them."""

from __future__ import annotations

from pathlib import Path

from whalebench.tests.faults.flips import Flips, _flip_one, flip_bytes


def test_no_flip_of_a_bit_goes_into_an_answer_unseen(tmp_path: Path) -> None:
    found = flip_bytes(25, seed=3, folder=tmp_path)
    assert found.used == []
    assert len({*found.detected, *found.without_effect}) == 25  # one of every kind
    assert found.detected.total() >= 12


def test_a_flip_that_is_used_is_found(tmp_path: Path) -> None:
    import random

    file, found = tmp_path / "notes.txt", Flips()
    file.write_bytes(b"0.5")
    _flip_one("notes", file, file.read_text, "0.5", found, random.Random(1))
    assert len(found.used) == 1
    assert file.read_bytes() == b"0.5"
    _flip_one("notes", file, lambda: "0.5", "0.5", found, random.Random(1))
    _flip_one("notes", file, lambda: "notes.txt differs from its digest", "0.5", found, random.Random(1))
    assert (found.without_effect["notes"], found.detected["notes"]) == (1, 1)
