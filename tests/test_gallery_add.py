"""A gallery that grows without training: who joined is named, and what it was made of is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core.record import read_record, write_record
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.predicting.gallery import FACTS, FOLDER, add_to_gallery, find_gallery
from whalebench.benchmarks.predicting.predict import predict
from whalebench.benchmarks.registry import load_benchmark
from whalebench.benchmarks.running import runner
from whalebench.methods.parts.retrieval import FLOOR, Gallery, GalleryConfig
from whalebench.tests.conftest import TINY_NETWORK
from whalebench.tests.ensembling import split_tiny

Cli = Callable[..., Any]
METHODS = {
    "arcface": ("dimensions=16", "photo_weight=0.5"),
    "triplet": ("dimensions=16",),
    "siamese": ("dimensions=16", "form=pair_head"),
    "softmax": (),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, shared_tiny: Workspace) -> Workspace:
    """`tiny` with a valid of known and new photos."""
    return split_tiny(tmp_path_factory.mktemp("gallery"), shared_tiny)


@pytest.fixture
def copy(place: Workspace, tmp_path: Path) -> Workspace:
    """A copy of it to change."""
    shutil.copytree(place.root, tmp_path / "workspace")
    return Workspace.open(tmp_path / "workspace")


@pytest.fixture
def strangers(tmp_path: Path) -> Path:
    """A table of two photos each of two individuals that no run has met, one of a known one, beside them."""
    rng, rows = np.random.default_rng(11), []
    (tmp_path / "strangers").mkdir()
    for name in ("neo", "trinity", "whale0"):
        pattern = rng.integers(0, 256, (5, 6, 3))
        for number in range(1 if name == "whale0" else 3):
            pixels = np.kron(pattern, np.ones((8, 8, 1))) + rng.normal(0, 10, (40, 48, 3))
            file = tmp_path / "strangers" / f"{name}{number}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
            if number < 2:  # the third photo is the question
                rows.append((f"{name}{number}", file.name, name))
    table = tmp_path / "strangers" / "table.csv"
    pd.DataFrame(rows, columns=["image", "path", "identity"]).to_csv(table, index=False)
    return table


def run(workspace: Workspace, method: str, *further: str) -> str:
    settings = (*TINY_NETWORK, "epochs=1", *METHODS[method], *further)
    request = runner.RunRequest(method, "tiny", settings=settings, device="cpu")
    return runner.run(request, workspace).run


def ask(name: str, table: Path, workspace: Workspace) -> Any:
    return predict(name, [table.parent / "neo2.png", table.parent / "trinity2.png"], workspace)


@pytest.mark.parametrize("method", ["arcface", "triplet", "siamese"])
def test_who_joined_is_named_and_the_run_stays_as_it_was(
    method: str, place: Workspace, strangers: Path
) -> None:
    name = run(place, method)
    before = ask(name, strangers, place)
    made = add_to_gallery(name, [strangers], place)
    after = ask(made.facts.name, strangers, place)
    assert after.identities == (*before.identities, "neo", "trinity")
    candidates = [after.identities[column] for column in after.scores.argmax(axis=1)]
    if method != "siamese":  # whose head has hardly learned
        assert candidates == ["neo", "trinity"]
        assert after.table().query("place == 1")["nearest"].str.startswith(("neo", "trinity")).all()
    # Of those whose photos are the same as before nothing changes.
    others = [column for column, each in enumerate(before.identities) if each != "whale0"]
    assert np.allclose(after.scores[:, others], before.scores[:, others], atol=1e-5)
    assert len(after.gallery) == len(before.gallery) + 5
    assert any("joined" in note and "2 individual(s)" in note for note in after.notes)
    again = ask(name, strangers, place)
    assert np.array_equal(again.scores, before.scores) and again.identities == before.identities


def test_a_head_is_fitted_anew_on_who_joined(place: Workspace, strangers: Path) -> None:
    settings = ("backbone=test_resnet", "pretrained=none", "size=32", "head=logistic")
    name = runner.run(runner.RunRequest("frozen", "tiny", settings=settings, device="cpu"), place).run
    before = ask(name, strangers, place)
    table = pd.read_csv(strangers)
    for people in (["whale0"], ["neo", "trinity"]):  # known ones change what the head says, too
        table[table["identity"].isin(people)].to_csv(strangers, index=False)
        name = add_to_gallery(name, [strangers], place).facts.name
        after = ask(name, strangers, place)
        assert not np.allclose(after.scores[:, : before.scores.shape[1]], before.scores, atol=1e-6)
        before = after
    assert (
        after.identities[-2:]
        == ("neo", "trinity")
        == tuple(after.identities[column] for column in after.scores.argmax(axis=1))
    )


def test_its_lineage_says_what_it_was_made_from(place: Workspace, strangers: Path) -> None:
    name = run(place, "arcface")
    made = add_to_gallery(name, [strangers], place)
    facts = json.loads((place.root / FOLDER / made.facts.name / FACTS).read_text())
    assert facts["run"] == name and facts["run_digest"] == read_record(place.runs / name).digest
    assert facts["photos"] == 5 and facts["new_individuals"] == ["neo", "trinity"]
    assert Path(facts["source"][0]).name == strangers.name and facts["created"] and facts["digest"]
    assert not [folder for folder in place.runs.iterdir() if "+" in folder.name]
    # The same photos again are the same gallery, found by as much of its name as no other has.
    assert add_to_gallery(name, [strangers], place).facts == made.facts
    found = find_gallery(made.facts.name[:-2], place)
    assert found is not None and found.facts == made.facts


def test_a_gallery_grows_on(copy: Workspace, strangers: Path) -> None:
    name = run(copy, "arcface")
    table = pd.read_csv(strangers)
    first, second = (strangers.with_name(f"{part}.csv") for part in ("first", "second"))
    table[table["identity"] == "neo"].to_csv(first, index=False)
    table[table["identity"] != "neo"].to_csv(second, index=False)
    one = add_to_gallery(name, [first], copy)
    two = add_to_gallery(one.facts.name, [second], copy)
    at_once = add_to_gallery(name, [strangers], copy)
    assert two.facts.after == one.facts.name and two.facts.photos == 5
    assert two.identities == at_once.identities
    grown, whole = (ask(each.facts.name, strangers, copy) for each in (two, at_once))
    assert np.allclose(grown.scores, whole.scores, atol=1e-5)
    assert ask(one.facts.name, strangers, copy).identities[-1] == "neo"


def test_what_cannot_join_is_told(place: Workspace, strangers: Path, shared_tiny: Workspace) -> None:
    name, source = run(place, "arcface"), shared_tiny.root.parent / "source" / "photos"
    parts = load_benchmark("tiny", place).split.parts(0)

    def of(path: Any, identity: str) -> Path:
        file = strangers.with_name("wrong.csv")
        pd.DataFrame({"image": ["x"], "path": [path], "identity": [identity]}).to_csv(file, index=False)
        return file

    # Also where the file is another one that shows the same.
    Image.open(source / parts.test[0]).save(strangers.with_name("again.png"), compress_level=1)
    for path, identity, sentence in (
        (source / parts.test[0], "neo", "is a test photo"),
        (strangers.with_name("again.png"), "neo", "is a test photo"),
        (source / parts.train[0], "neo", "is in the gallery"),
        ("neo0.png", "", "name no individual"),
        ("neo0.png", "unknown", "name no individual"),
        ("absent.png", "neo", "None of the photos"),
    ):
        with pytest.raises(WhalebenchError, match=sentence):
            add_to_gallery(name, [of(path, identity)], place)
    with pytest.raises(WhalebenchError, match="has no gallery that photos could join") as caught:
        add_to_gallery(run(place, "softmax"), [strangers], place)
    assert not isinstance(caught.value, RunFailedError)


def test_one_that_is_no_longer_what_was_written_is_refused(copy: Workspace, strangers: Path) -> None:
    name = run(copy, "arcface")
    made = add_to_gallery(name, [strangers], copy)
    file = made.folder / FACTS
    text = file.read_text()
    file.write_text(text.replace('"photos": 5', '"photos": 6'))
    with pytest.raises(WhalebenchError, match="differs from its digest"):
        ask(made.facts.name, strangers, copy)
    file.write_text(text)
    joined = made.folder / "joined.safetensors"
    content = joined.read_bytes()
    joined.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(WhalebenchError, match="differs from its digest"):
        ask(made.facts.name, strangers, copy)
    joined.write_bytes(content)
    folder = copy.runs / name
    write_record(folder, read_record(folder).model_copy(update={"created": "2020-01-01T00:00:00+00:00"}))
    with pytest.raises(WhalebenchError, match="was made again"):
        ask(made.facts.name, strangers, copy)
    with pytest.raises(WhalebenchError, match="fits 0 extended galleries"):
        ask(f"{name}+{'1' if made.facts.name[len(name) + 1] == '0' else '0'}", strangers, copy)


def test_sides_join_as_they_are_known() -> None:
    gallery = Gallery(GalleryConfig(side="same"))
    east, north = np.eye(2, dtype=np.float32)
    gallery.fill(np.stack([east, north]), np.array([0, 1]), 2, np.array([0, 0]))
    gallery.add(np.stack([east, north]), np.array([2, 2]), 3, np.array([0, 1]))
    scores = gallery.scores(east[None], np.array([0]))
    assert scores.tolist() == [[1.0, 0.0, 1.0]]
    assert gallery.scores(east[None], np.array([1]))[0, 2] == 0.0
    empty = Gallery(GalleryConfig(), 2)
    empty.fill(np.stack([east]), np.array([0]), 1)
    empty.add(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), 2)
    assert empty.scores(east[None])[0].tolist() == [1.0, FLOOR]


def test_the_command_says_what_comes_next(place: Workspace, strangers: Path, cli: Cli) -> None:
    name = run(place, "arcface")
    said = cli("gallery", "add", name, strangers, "--json", "--workspace", place.root)
    document = json.loads(said.out)
    assert said.code == 0 and document["name"].startswith(f"{name}+")
    shown = cli("gallery", "add", name, strangers, "--workspace", place.root)
    assert f"whalebench predict {document['name']}" in shown.out and "stay as they were chosen" in shown.out
    asked = cli("predict", document["name"], strangers.parent / "neo2.png", "--workspace", place.root)
    assert asked.code == 0 and "neo" in asked.out
