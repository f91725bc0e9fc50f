"""Photos grouped without names: by embeddings, by what a person says of pairs, in records and on boards."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from whalebench import WhalebenchError
from whalebench.benchmarks.clustering.groups import (
    MOST_PHOTOS,
    Named,
    PairModel,
    choose_on_valid,
    cut,
    evaluate_grouping,
    fit_logistic,
)
from whalebench.benchmarks.clustering.reviewed import (
    CANDIDATES,
    Review,
    Said,
    count_individuals,
    reach,
    read_said,
)
from whalebench.benchmarks.core.arrays import normalise
from whalebench.benchmarks.core.record import read_arrays, read_record
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.benchmarks.decisions import Decision
from whalebench.benchmarks.importing.importer import import_csv
from whalebench.benchmarks.running import runner
from whalebench.benchmarks.running.folds import NEW, Answers
from whalebench.reports.leaderboard import leaderboard
from whalebench.reports.metrics.grouping import adjusted_mutual_information, adjusted_rand_index
from whalebench.reports.writers import to_markdown, to_rows
from whalebench.tests.conftest import TINY_NETWORK
from whalebench.tests.pages import page_of

MODEL = PairModel(12, -6, 0.5)
WHALE = r"w(\d)e\d+.png$"


def drawn(seed: int, individuals: int = 12, noise: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of one to five photos of each individual, and who they show."""
    rng = np.random.default_rng(seed)
    names = np.repeat(np.arange(individuals), rng.integers(1, 6, individuals))
    centres = rng.normal(size=(individuals, 16))
    embeddings = centres[names] + noise * rng.normal(size=(len(names), 16))
    order = rng.permutation(len(names))
    return embeddings[order].astype(np.float32), names[order]


def named(seed: int = 0, **change: Any) -> Named:
    embeddings, names = drawn(seed, **change)
    each = tuple(f"e{place}" for place in range(len(names)))
    return Named(embeddings, tuple(f"w{name}" for name in names), each)


# --- groups


def slow_groups(model: PairModel, embeddings: np.ndarray) -> set[frozenset[int]]:
    """Average linkage step by step."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    probability = model.probability(unit @ unit.T)
    groups = [frozenset([row]) for row in range(len(unit))]
    while len(groups) > 1:
        means = {
            pair: np.mean([probability[a, b] for a in pair[0] for b in pair[1]])
            for pair in combinations(groups, 2)
        }
        best = max(means, key=lambda pair: means[pair])
        if means[best] < model.threshold:
            break
        groups = [group for group in groups if group not in best] + [best[0] | best[1]]
    return set(groups)


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_those_of_plain_average_linkage(seed: int) -> None:
    embeddings, _ = drawn(seed)
    groups = MODEL.groups(embeddings)
    found = {frozenset(np.flatnonzero(groups == group).tolist()) for group in set(groups.tolist())}
    assert found == slow_groups(MODEL, embeddings)
    assert 3 < len(found) < len(embeddings)
    sizes = np.bincount(groups)
    assert (np.diff(sizes) <= 0).all()  # the largest is the first
    assert MODEL.groups(embeddings[:1]).tolist() == [0] and MODEL.groups(embeddings[:0]).tolist() == []


def test_what_a_person_says_holds_whatever_the_embeddings_say() -> None:
    embeddings, names = drawn(0)
    groups = MODEL.groups(embeddings)
    apart = tuple(np.flatnonzero(groups == 0)[:2])
    far = np.array([np.flatnonzero(groups == group)[0] for group in (0, 5, 9)])
    decided = MODEL.groups(embeddings, [far], [(np.array([apart[0]]), np.array([apart[1]]))])
    assert len(set(decided[far].tolist())) == 1
    assert decided[apart[0]] != decided[apart[1]]
    nobody = PairModel(0, -20, 0.5).groups(embeddings, [far])
    assert np.bincount(nobody)[0] == 3 and len(set(nobody.tolist())) == len(names) - 2
    one = PairModel(0, 20, 0.5)
    assert set(one.groups(embeddings).tolist()) == {0}
    halves = one.groups(embeddings, [], [(np.array([0]), np.array([1]))])
    assert halves[0] != halves[1] and len(set(halves.tolist())) == 2
    rest = np.setdiff1d(np.arange(len(names)), [0])
    assert np.bincount(one.groups(embeddings, [], [(np.array([0]), rest)])).tolist() == [len(rest), 1]


def test_the_logistic_has_the_least_log_loss() -> None:
    rng = np.random.default_rng(0)
    same = rng.random(400) < 0.3
    cosines = np.where(same, 0.5, 0.1) + rng.normal(0, 0.2, 400)
    model = fit_logistic(cosines, same)
    right, wrong = same.sum(), (~same).sum()
    target = np.where(same, (right + 1) / (right + 2), 1 / (wrong + 2))

    def loss(slope: float, intercept: float) -> float:
        p = 1 / (1 + np.exp(-(slope * cosines + intercept)))
        return float(-(target * np.log(p) + (1 - target) * np.log1p(-p)).mean())

    least = loss(model.slope, model.intercept)
    near = [(model.slope * a, model.intercept * b) for a in (0.9, 1, 1.1) for b in (0.9, 1, 1.1)]
    assert all(loss(*other) >= least - 1e-5 for other in near)
    assert model.probability(cosines).mean() == pytest.approx(same.mean(), abs=0.01)


def test_pairs_that_cosines_part_are_not_certain() -> None:
    model = fit_logistic(np.array([0.9, 0.8, 0.1, 0.2, 0.0]), np.array([True, True, False, False, False]))
    assert np.isfinite([model.slope, model.intercept]).all()
    assert model.probability(np.array([0.85])) == pytest.approx(0.75, abs=0.1)
    assert model.probability(np.array([0.1])) == pytest.approx(0.2, abs=0.1)


def test_photos_of_one_encounter_do_not_decide() -> None:
    plain, rough = named(noise=0.3), named(noise=3.0)
    names = np.array(plain.identities)
    few = np.isin(names, ["w0", "w1", "w2"])  # the others were met once, and do not look like themselves
    valid = Named(
        np.where(few[:, None], plain.embeddings, rough.embeddings),
        plain.identities,
        tuple(np.where(few, plain.groups, names).tolist()),
    )
    first, second = np.triu_indices(len(names), 1)
    counted = np.array(valid.groups)[first] != np.array(valid.groups)[second]
    unit = normalise(valid.embeddings)
    cosines, same = (unit[first] * unit[second]).sum(axis=1), names[first] == names[second]
    apart, every = fit_logistic(cosines[counted], same[counted]), fit_logistic(cosines, same)
    found, one = (choose_on_valid(each) for each in (valid, replace(valid, groups=("e",) * len(names))))
    assert found and one and apart.slope > 1.5 * every.slope
    assert (found.slope, found.intercept) == pytest.approx((apart.slope, apart.intercept), rel=1e-3)
    # Where there are no others they must do.
    assert (one.slope, one.intercept) == pytest.approx((every.slope, every.intercept), rel=1e-3)


def test_the_threshold_is_the_best_on_valid_by_ari_and_ami() -> None:
    valid = named(3, noise=0.9)
    model = choose_on_valid(valid)
    assert model
    tree = model.tree(valid.embeddings)

    def worth(threshold: float) -> float:
        groups = cut(tree, threshold).tolist()
        found = [
            score(valid.identities, groups) for score in (adjusted_rand_index, adjusted_mutual_information)
        ]
        return float(np.mean(found))

    assert worth(model.threshold) >= max(worth(each) for each in np.linspace(0.001, 0.999, 40)) - 0.05
    assert worth(model.threshold) > worth(0.999) and worth(model.threshold) > worth(1e-6)


def test_valid_without_an_individual_twice_has_nothing_to_choose_by() -> None:
    valid = named()
    some = np.unique(valid.identities, return_index=True)[1]
    once = Named(valid.embeddings[some], tuple(valid.identities[row] for row in some), ("e",) * len(some))
    assert choose_on_valid(once) is None
    one = Named(valid.embeddings, ("w",) * len(valid.identities), valid.groups)
    assert choose_on_valid(one) is None
    assert choose_on_valid(Named(valid.embeddings[:0], (), ())) is None


def answers(of: Named) -> Answers:
    images = tuple(f"{place}.jpg" for place in range(len(of.identities)))
    return Answers(images, of.identities, tuple(NEW for _ in images), images, groups=of.groups)


def test_photos_of_nobody_are_left_out_and_many_are_drawn_by_encounters() -> None:
    few = named()
    half = Named(few.embeddings, ("", *few.identities[1:]), few.groups)
    assert Named.of(few.embeddings, answers(half)).identities == few.identities[1:]
    count = MOST_PHOTOS + 100
    many = Named(np.zeros((count, 2), np.float32), ("w",) * count, tuple(f"{n // 50}" for n in range(count)))
    kept = Named.of(many.embeddings, answers(many))
    assert len(kept.identities) == len(kept.embeddings) == MOST_PHOTOS
    assert sorted(np.unique(kept.groups, return_counts=True)[1].tolist())[0] == 50
    parts = {"valid": few.embeddings, "test": few.embeddings}
    none = evaluate_grouping(parts, {"valid": answers(named()), "test": answers(few)})
    assert none["photos"] == len(few.identities) and none["ari"] > 0.5 and none["valid"]["ari"] == none["ari"]
    alone = Named(few.embeddings, ("w",) * len(few.identities), few.groups)
    assert [*evaluate_grouping(parts, dict.fromkeys(parts, answers(alone)))] == ["reason"]
    assert evaluate_grouping({}, {}) == {}


# --- decisions


def decisions(*rows: tuple[str, str, str]) -> list[Decision]:
    return [
        Decision(photo, "", word, individual, "", f"line {place}")  # type: ignore[arg-type]
        for place, (photo, word, individual) in enumerate(rows, 2)
    ]


def said(*rows: tuple[str, str, str], known: tuple[str, ...] = ("Ada", "Ben")) -> Said:
    return read_said(Path("d.csv"), decisions(*rows), tuple("abcdef"), known)


def test_what_is_said_of_pairs_is_said_of_all() -> None:
    found = said(("a", "same", "b"), ("c", "same", "b"), ("c", "different", "d"), ("e", "unsure", "f"))
    assert found.same(0, 2) is True and found.same(0, 3) is False and found.same(3, 1) is False
    assert found.same(3, 4) is None and found.same(4, 5) is None and found.unsure == {(4, 5)}
    assert [places.tolist() for places in found.together()] == [[0, 1, 2]]
    assert [sorted(map(len, pair)) for pair in found.divided()] == [[1, 3]]


def test_individuals_and_new_ones_lead_from_photo_to_photo() -> None:
    found = said(
        ("a", "same", "Ada"),
        ("b", "same", "Ada"),
        ("c", "same", "Ben"),
        ("d", "new", "Eve"),
        ("e", "new", ""),
    )
    assert found.same(0, 1) is True and found.same(0, 2) is False and found.same(3, 2) is False
    assert found.same(4, 0) is False and found.same(4, 3) is None  # two new ones may be one animal
    assert said(("a", "new", "Eve"), ("b", "new", "Eve")).same(0, 1) is True
    assert said(("a", "different", "Ada"), ("b", "same", "Ada")).same(0, 1) is False


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [("a", "same", "b"), ("b", "same", "c"), ("a", "different", "c")],
            ["line 4", "line 2, line 3 say that a and c are one"],
        ),
        (
            [("a", "same", "Ada"), ("b", "same", "Ben"), ("a", "same", "b")],
            ["line 4", "line 2, line 3", "Ada and Ben one, which are two"],
        ),
        ([("a", "same", "Ada"), ("a", "new", "")], ["line 3", "line 2 say that a and Ada are one"]),
        ([("a", "same", "Zoe")], ["line 2", "'Zoe'", "no individual that the run knows"]),
        ([("a", "same", "a")], ["line 2", "no other photo"]),
    ],
)  # fmt: skip
def test_contradictions_are_named_by_line(rows: list[tuple[str, str, str]], words: list[str]) -> None:
    with pytest.raises(WhalebenchError) as caught:
        said(*rows)
    assert all(word in str(caught.value) for word in ["d.csv", *words]), str(caught.value)
    assert len(str(caught.value)) <= 300


# --- how many


def decided(review: Review, names: np.ndarray, most: int, sure: float = 1.0) -> Said:
    """What somebody who knows says of the first drawn photos, up to the first that is the same."""
    rng, rows = np.random.default_rng(0), list[tuple[str, str, str]]()
    for look in review.open_looks(Said.nothing(len(names)), most):
        for other in look.earlier:
            word = "same" if names[other] == names[look.photo] else "different"
            word = word if rng.random() < sure else "unsure"
            rows.append((review.names[look.photo], word, review.names[other]))
            if word == "same":
                break
    return read_said(Path("d.csv"), decisions(*rows), review.names)


def review_of(seed: int, noise: float = 0.6, individuals: int = 12) -> tuple[Review, np.ndarray]:
    embeddings, names = drawn(seed, individuals, noise)
    photos = tuple(f"{seed}-{place}.jpg" for place in range(len(names)))
    return Review(embeddings, MODEL.groups(embeddings), photos), names


def test_all_photos_reviewed_are_counted_exactly() -> None:
    review, names = review_of(1, noise=0.7)
    groups = len(set(review.groups.tolist()))
    assert groups != 12  # there is something to set right
    count = count_individuals(review, decided(review, names, len(names)))
    assert (count.value, count.low, count.high, count.photos) == (12, 12, 12, len(names))
    assert count_individuals(review, Said.nothing(len(names))) == (groups, None, None, 0)


def test_the_same_photos_are_drawn_in_whatever_order_they_are_given() -> None:
    review, _ = review_of(1)
    order = np.random.default_rng(0).permutation(len(review.names))
    groups = np.unique(review.groups[order], return_inverse=True)[1]
    other = Review(review.embeddings[order], groups, tuple(review.names[row] for row in order))
    first = [(review.names[look.photo], look.first_of_group) for look in review.looks()]
    assert [(other.names[look.photo], look.first_of_group) for look in other.looks()] == first
    assert all(len(look.earlier) <= CANDIDATES for look in review.looks())
    kinds = [look.first_of_group for look in review.looks()]
    assert kinds[:6] == [True, False] * 3


def test_who_is_looked_at_is_asked_no_more() -> None:
    review, names = review_of(1)
    some = decided(review, names, 10)
    left = review.open_looks(some, 5)
    asked = {look.photo for look in review.open_looks(Said.nothing(len(names)), 10)}
    assert len(left) == 5 and asked.isdisjoint(look.photo for look in left)
    assert all(some.same(look.photo, other) is None for look in left for other in look.earlier)
    count = count_individuals(review, some)
    assert count.low and count.high and count.low < count.value < count.high


def test_what_was_decided_behind_a_gap_is_no_sample() -> None:
    review, names = review_of(1)
    third = review.open_looks(Said.nothing(len(names)), 6)[5].photo
    rows = [
        (review.names[look.photo], "same" if names[other] == names[look.photo] else "different", other)
        for look in review.looks()
        for other in look.earlier
        if third not in (look.photo, other)
    ]
    part = decisions(*((photo, word, review.names[other]) for photo, word, other in rows))
    some = read_said(Path("d.csv"), part, review.names)
    kind = next(look.first_of_group for look in review.looks() if look.photo == third)
    before = [look.photo for look in review.looks() if look.first_of_group == kind].index(third)
    others = sum(
        look.first_of_group != kind and review.is_first(look, some) is not None for look in review.looks()
    )
    assert count_individuals(review, some).photos <= before + others < len(names) - 1


def test_a_photo_that_nobody_can_tell_is_left_out() -> None:
    review, names = review_of(1)
    sure, unsure = (decided(review, names, len(names), share) for share in (1.0, 0.8))
    whole, part = count_individuals(review, sure), count_individuals(review, unsure)
    assert 0 < part.photos < whole.photos and part.low and part.low < part.value


def test_the_interval_holds_the_number_of_individuals() -> None:
    held, values = 0, list[float]()
    for seed in range(40):
        review, names = review_of(seed, noise=0.75, individuals=20)
        count = count_individuals(review, decided(review, names, 24))
        assert count.low is not None and count.high is not None
        held += count.low <= 20 <= count.high
        values.append(count.value)
    assert held >= 36, held
    assert np.mean(values) == pytest.approx(20, abs=1)


def test_what_short_lists_miss_is_known_where_individuals_are() -> None:
    review, names = review_of(1)
    named_so = [f"w{name}" for name in names]
    assert reach(review, named_so) == 1
    every = list(map(str, range(len(names))))
    assert isnan(reach(review, every))
    rng, many = np.random.default_rng(0), np.repeat(np.arange(40), 2)
    blind = rng.normal(size=(len(many), 3)).astype(np.float32)
    blind_review = Review(blind, MODEL.groups(blind), tuple(f"{row}.jpg" for row in range(len(many))))
    looks = [(many[look.photo], {many[row] for row in look.earlier}) for look in blind_review.looks()]
    held = sum(name in earlier for name, earlier in looks) / 40
    assert reach(blind_review, [f"w{name}" for name in many]) == held < 0.6


# --- of runs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Five individuals that were met fifteen times each."""
    folder, rng = tmp_path_factory.mktemp("grouped"), np.random.default_rng(5)
    (folder / "photos").mkdir()
    rows = ["image,path,identity,encounter"]
    for individual in range(5):
        pattern = rng.integers(0, 256, (4, 4, 3))
        for met in range(15):
            pixels = np.kron(pattern, np.ones((8, 8, 1))) + rng.normal(0, 20, (32, 32, 3))
            image = f"w{individual}e{met:02d}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "photos" / image)
            rows.append(f"{image},photos/{image},whale{individual},{individual}-{met}")
    (folder / "table.csv").write_text("\n".join(rows))
    workspace = Workspace.open(folder / "workspace")
    import_csv(folder / "table.csv", "met", workspace)
    return workspace


@pytest.fixture(scope="module")
def finished(place: Workspace) -> Path:
    record = runner.run(runner.RunRequest("softmax", "met", settings=TINY_NETWORK, device="cpu"), place)
    return place.runs / record.run


def test_a_record_says_how_well_its_test_photos_are_grouped(place: Workspace, finished: Path) -> None:
    found, table = read_record(finished).grouping, pd.read_parquet(finished / "predictions.parquet")
    arrays, names = read_arrays(finished / "scores.safetensors", ("test_embeddings",), "names")
    known = (table["identity"] != "").to_numpy()
    assert names["test"] == table["image"].tolist()
    model = PairModel(*(float(found[name]) for name in ("slope", "intercept", "threshold")))  # type: ignore[arg-type]
    groups = model.groups(arrays["test_embeddings"][known])
    truth = table["identity"][known].tolist()
    assert found["photos"] == known.sum() and found["groups"] == len(set(groups.tolist()))
    assert found["individuals"] == len(set(truth))
    assert found["ari"] == pytest.approx(adjusted_rand_index(truth, groups.tolist()))
    assert isinstance(found["valid"], dict) and found["valid"]["photos"] > 1


def test_groups_are_a_table_of_their_own(place: Workspace, finished: Path) -> None:
    board = leaderboard(place.runs, "met", closely=True)
    (row,) = [row for row in to_rows(board) if row["run"] == finished.name]
    assert {"ari", "ami", "pair_f1", "groups", "individuals"} <= row["grouping"].keys()
    text, page = to_markdown(board), page_of(board)
    assert "Groups without names" in text and "| ARI " in text
    assert "Groups without names" in page and "pair F1" in page


def test_photos_are_grouped_and_counted_from_the_command_line(
    place: Workspace, finished: Path, cli: Any, tmp_path: Path
) -> None:
    photos = place.root.parent / "photos"
    given = [photos / f"w{individual}e{met:02d}.png" for individual in range(5) for met in range(4)]
    files = {name: tmp_path / f"{name}.csv" for name in ("groups", "pairs", "decided", "more")}
    asked = ("cluster", finished.name, *given, "--workspace", place.root)
    first = cli(*asked, "--out", files["groups"], "--pairs", files["pairs"])
    assert first.code == 0, first.err
    assert "the groups; for an interval" in first.out and "chosen on valid" in first.out
    table, pairs = (pd.read_csv(files[name], keep_default_na=False) for name in ("groups", "pairs"))
    assert list(table) == ["photo", "encounter", "group", "photos", "probability"] and len(table) == 20
    assert pairs["decision"].eq("").all() and set(pairs["photo"]) <= set(table["photo"])

    alike = pairs["photo"].str.extract(WHALE)[0] == pairs["individual"].str.extract(WHALE)[0]
    pairs.assign(decision=np.where(alike, "same", "different")).to_csv(files["decided"], index=False)
    done = cli(*asked, "--decisions", files["decided"], "--pairs", files["more"], "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["individuals"] == {"value": 5, "low": 5, "high": 5, "photos": 20}
    assert pd.read_csv(files["more"]).empty
    group = {row["photo"]: row["group"] for row in document["table"]}
    decided = zip(pairs["photo"], pairs["individual"], alike, strict=True)
    assert all((group[one] == group[other]) == same for one, other, same in decided)

    assert cli("cluster", "softmax", *given, "--decisions", tmp_path, "--workspace", place.root).code == 2
    files["decided"].write_text("photo,decision,individual\nnobody.png,same,w0e00.png\n")
    wrong = cli(*asked, "--decisions", files["decided"])
    assert wrong.code == 2 and "line 2" in wrong.err and "nobody.png" in wrong.err
