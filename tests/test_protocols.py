"""Protocols beside the default one, and random twins: what each keeps apart, and what it refuses."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from whalebench import WhalebenchError
from whalebench.benchmarks.core.catalog import Catalog, build_catalog
from whalebench.splits.groupings import protocol_groups
from whalebench.splits.protocols import PROTOCOLS, propose_split
from whalebench.splits.rules import check_split
from whalebench.splits.split import Split, read_split, write_split
from whalebench.splits.table import make_table, table_text
from whalebench.splits.twin import random_twin

STRICT = tuple(each for each in PROTOCOLS if each not in ("auto", "published"))


def photos(individuals: int = 16, encounters: int = 5) -> pd.DataFrame:
    """Individuals met on 1 to 5 days, left in one encounter and right in the next, and ten of nobody."""
    found = []
    for individual in range(individuals):
        for met in range(1 + individual % encounters):
            for photo in range(2 + (individual + met) % 3):
                found.append(
                    {
                        "image": f"{individual:02d}-{met}-{photo}.jpg",
                        "identity": f"w{individual:02d}",
                        "encounter": f"e{individual}-{met}",
                        "date": f"2024-{1 + met:02d}-{1 + individual:02d}",
                        "viewpoint": "left" if met % 2 else "right",
                    }
                )
    for nobody in range(10):
        date = f"2024-{1 + nobody % 5:02d}-28"
        found.append({"image": f"x{nobody}.jpg", "identity": "", "date": date, "encounter": f"x{nobody}"})
    found[3]["content_digest"] = found[-1]["content_digest"] = "copy"
    return pd.DataFrame(found).fillna("").pipe(lambda table: table.assign(path=table["image"]))


def catalog(**columns: object) -> Catalog:
    return build_catalog(photos().assign(**columns), "drawn")


def places(split: Split, of: Catalog, *columns: str) -> list[int]:
    """In how many folds or valid parts the photos of each encounter, or of what the columns say, are."""
    place = split.table.set_index("image")[["fold", "valid"]].apply(tuple, axis=1)
    facts = of.table[of.table[columns[0]] != ""]
    groups = facts["image"].map(place).groupby([facts[column] for column in columns])
    return [len(set(group)) for _, group in groups]


def counted(split: Split, of: Catalog) -> list[dict[str, Counter[str]]]:
    """By fold and part, how many photos there are of each individual."""
    identity = dict(zip(of.table["image"], of.table["identity"], strict=True))
    return [
        {part: Counter(map(identity.get, images)) for part, images in split.parts(fold)._asdict().items()}
        for fold in split.folds
    ]


@pytest.mark.parametrize("protocol", STRICT)
def test_every_protocol_is_the_same_again_and_cuts_no_group(protocol: str) -> None:
    of = catalog()
    split = propose_split(of, protocol=protocol)
    assert split.protocol == protocol
    assert split.digest == propose_split(catalog(), protocol=protocol).digest
    backwards = build_catalog(photos().iloc[::-1], "drawn")
    assert table_text(propose_split(backwards, protocol=protocol).table) == table_text(split.table)
    assert set(places(split, of, "encounter")) == set(places(split, of, "content_digest")) == {1}
    assert all(part for fold in split.folds for part in split.parts(fold))


@pytest.mark.parametrize("protocol", [each for each in STRICT if each != "time-aware"])
def test_another_seed_is_another_split(protocol: str) -> None:
    one, other = (propose_split(catalog(), protocol=protocol, seed=seed) for seed in (0, 1))
    assert one.digest != other.digest


def test_closed_tests_known_individuals_only() -> None:
    of = catalog()
    for parts in counted(propose_split(of, protocol="closed"), of):
        assert "" in parts["train"]
        for part in ("valid", "test"):
            assert "" not in parts[part]
            assert parts[part].keys() <= parts["train"].keys()


def test_open_holds_whole_individuals_out() -> None:
    of = catalog()
    split = propose_split(of, protocol="open", new_share=0.4)
    several = {group for group, n in Counter(photos()["identity"]).items() if group and int(group[1:]) % 5}
    assert split.parameters["held_out"] == round(0.4 * len(several))
    new_of = [
        {part: (parts[part].keys() - parts["train"].keys() - {""}) & several for part in ("valid", "test")}
        for parts in counted(split, of)
    ]
    tested = [name for new in new_of for name in new["test"]]
    assert len(tested) == len(set(tested)) == round(0.4 * len(several))
    assert any(new["valid"] for new in new_of)
    for parts in counted(split, of):
        new = (parts["test"].keys() - parts["train"].keys() - {""}) & several
        assert all(parts["test"][name] == (of.table["identity"] == name).sum() for name in new)
    fewer = propose_split(of, protocol="open", new_share=0.01)
    assert fewer.parameters["held_out"] == 1


def test_encounter_grouped_keeps_days_together_where_no_encounter_is_known() -> None:
    of = catalog(encounter="")
    split = propose_split(of)
    assert split.protocol == "encounter-grouped"
    assert set(places(split, of, "date", "identity")) == {1}
    assert not any("same day" in warning for warning in split.warnings)
    ignoring = propose_split(of, protocol="stratified-encounters")
    days = {
        image: (who, date[:10])
        for image, who, date in zip(*(of.table[name] for name in ("image", "identity", "date")), strict=True)
    }
    parts = [ignoring.parts(fold) for fold in ignoring.folds]
    flattered = [
        sum(
            bool(days[image][0]) and days[image] in {days[other] for other in each.train}
            for image in each.test
        )
        for each in parts
    ]
    tested = sum(len(each.test) for each in parts)
    assert 0 < sum(flattered) < tested
    assert (
        f"{sum(flattered)} of {tested} tested photos have a photo of the same individual from the same day "
        "in train, which flatters scores; make the split by encounters: `whalebench split make "
        "drawn@encounter-grouped --protocol encounter-grouped`."
    ) in ignoring.warnings


def test_a_split_of_before_is_marked_when_it_is_read(tmp_path: Path) -> None:
    of = catalog(encounter="")
    split = propose_split(of, protocol="stratified-encounters")
    write_split(replace(split, warnings=("As it was.",)), tmp_path / "split")
    read = read_split(tmp_path / "split", of)
    assert read.warnings[0] == "As it was."
    assert "from the same day in train" in read.warnings[1]
    twin = random_twin(split, of)
    write_split(twin, tmp_path / "twin")
    assert read_split(tmp_path / "twin", of).warnings == twin.warnings


def test_encounters_and_days_are_joined_through_each_other() -> None:
    """a and b are one encounter, b and c one day of one individual, d only the same day of another one."""
    rows = [("a", "w", "e", "2024-01-01"), ("b", "w", "e", "2024-01-02"), ("c", "w", "", "2024-01-02T10:00")]
    rows += [("d", "v", "", "2024-01-02"), ("e", "w", "", "2024-01"), ("f", "w", "", "2024-01")]
    table = pd.DataFrame(rows, columns=["image", "identity", "encounter", "date"])
    of = build_catalog(table.assign(path=table["image"]), "drawn")
    groups = {group.images for group in protocol_groups(of.table, "encounter-grouped")}
    assert groups == {("a", "b", "c"), ("d",), ("e",), ("f",)}


def test_auto_takes_days_only_where_encounters_are_missing() -> None:
    assert propose_split(catalog()).protocol == "stratified-encounters"
    assert propose_split(catalog(date="", encounter="")).protocol == "stratified-encounters"
    assert propose_split(catalog(encounter="", date="2024-05")).protocol == "stratified-encounters"


def test_side_aware_tests_sides_that_train_shows() -> None:
    of = catalog()
    side = {row.image: (row.identity, row.viewpoint) for row in of.table.itertuples()}

    def unseen(split: Split) -> int:
        parts = [split.parts(fold) for fold in split.folds]
        known = [{side[image] for image in part.train} | {("", "")} for part in parts]
        scored = [(*part.valid, *part.test) for part in parts]
        return sum(side[i] not in seen for images, seen in zip(scored, known, strict=True) for i in images)

    assert unseen(propose_split(of, protocol="side-aware")) == 0
    assert unseen(propose_split(of, protocol="stratified-encounters")) > 0


def test_time_aware_tests_what_came_later() -> None:
    of = catalog()
    split = propose_split(of, protocol="time-aware", cutoff="2024-04-01")
    date = dict(zip(of.table["image"], of.table["date"], strict=True))
    parts = split.parts(0)
    assert all(date[image] < "2024-04-01" for image in (*parts.train, *parts.valid))
    assert all(date[image] >= "2024-04-01" for image in parts.test)
    # One encounter holds the copy of a photo of another month, so it is on both sides.
    left_out = set(split.table["image"][split.table["fold"] == -2])
    assert left_out == {"01-0-0.jpg", "01-0-1.jpg", "01-0-2.jpg", "x9.jpg"} - set(parts.test) - set(
        parts.train
    )
    by_share = propose_split(of, protocol="time-aware", test_share=0.3)
    assert len(by_share.parts(0).test) == pytest.approx(0.3 * len(of.table), abs=8)
    assert by_share.parameters["cutoff"] > split.parameters["cutoff"][:4]


def test_time_aware_counts_a_month_as_all_its_days_and_no_date_as_before() -> None:
    table = photos()
    table.loc[table["date"] == "2024-04-04", "date"] = "2024-04"
    table.loc[table["encounter"] == "e9-1", "date"] = ""
    of = build_catalog(table, "drawn")
    split = propose_split(of, protocol="time-aware", cutoff="2024-04-04")
    fold = dict(zip(split.table["image"], split.table["fold"], strict=True))
    month = of.table["image"][of.table["date"] == "2024-04"]
    assert len(month) and {fold[image] for image in month} == {-2}
    undated = of.table["image"][of.table["encounter"] == "e9-1"]
    assert {fold[image] for image in undated} == {-1}
    assert any(f"{len(undated)} photos without a date" in each for each in split.warnings)


@pytest.mark.parametrize("protocol", STRICT)
def test_a_twin_has_the_same_counts_of_each_individual_and_cuts_encounters(protocol: str) -> None:
    of = catalog()
    split = propose_split(of, protocol=protocol)
    twin = random_twin(split, of)
    assert counted(twin, of) == counted(split, of)
    assert twin.twin_of == split.digest != twin.digest
    assert split.twin_of == ""
    assert max(places(twin, of, "encounter")) > 1
    assert places(twin, of, "content_digest") == [1]
    assert random_twin(split, of).digest == twin.digest != random_twin(split, of, seed=1).digest


def with_duplicates() -> pd.DataFrame:
    """Two individuals of several encounters that are one animal, and the group of one photo of nobody."""
    table = photos()
    return table.assign(duplicates=table["identity"].map({"w03": "same", "w04": "same"}).fillna(""))


@pytest.mark.parametrize("protocol", STRICT)
def test_duplicates_by_name_are_never_parted_and_stay_in_the_twin(protocol: str) -> None:
    of = build_catalog(with_duplicates(), "drawn")
    given = {"time-aware": {"cutoff": "2024-04-01"}, "disjoint": {"folds": 2}}  # few animals are left to test
    split = propose_split(of, protocol=protocol, **given.get(protocol, {}))
    assert places(split, of, "duplicates") == [1]
    group_of = dict(zip(split.table["image"], split.table["group"], strict=True))
    same = of.table["image"][of.table["duplicates"] != ""]
    assert len(same) > 20 and len({group_of[image] for image in same}) == 1
    twin = random_twin(split, of)
    assert places(twin, of, "duplicates") == [1] and max(places(twin, of, "encounter")) > 1


def test_a_published_split_tells_of_duplicates_by_name_or_drops_them() -> None:
    met = photos()["encounter"].str.extract(r"-(\d)$")[0].fillna("0")
    part = met.map({"3": "test", "2": "valid"}).fillna("train")
    of = build_catalog(with_duplicates().assign(split=part), "drawn")
    same = set(of.table["image"][of.table["duplicates"] != ""])
    told = propose_split(of)
    assert any("straddle the published parts" in warning for warning in told.warnings)
    assert not set(told.table["image"][told.table["fold"] == -2])
    dropped = propose_split(of, duplicates="drop")
    gone = set(dropped.table["image"][dropped.table["fold"] == -2])
    assert gone == {image for image in same if image[3] != "3"}
    assert same - gone <= set(dropped.parts(0).test)


def test_a_published_split_has_a_twin_too(tmp_path) -> None:
    table = photos()
    met = table["encounter"].str.extract(r"-(\d)$")[0].fillna("0")
    part = met.map({"3": "test", "2": "valid"}).fillna("train")
    of = build_catalog(table.assign(split=part), "drawn")
    split = propose_split(of)
    twin = random_twin(split, of)
    assert split.protocol == "published" and counted(twin, of) == counted(split, of)
    write_split(twin, tmp_path / "split@twin")
    assert read_split(tmp_path / "split@twin", of).twin_of == split.digest


def test_a_twin_has_no_twin_and_photos_met_once_have_none() -> None:
    of = catalog()
    with pytest.raises(WhalebenchError, match="is a random twin itself"):
        random_twin(random_twin(propose_split(of), of), of)
    table = photos()
    digests = [f"pair {place // 2}" for place in range(len(table))]
    with pytest.raises(WhalebenchError, match="No photo of drawn can change places"):
        same = build_catalog(table.assign(content_digest=digests, encounter=""), "drawn")
        random_twin(propose_split(same, protocol="stratified-encounters"), same)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"protocol": "open", "singles": "train"}, "singles=train cannot be by open"),
        ({"protocol": "closed", "singles": "new"}, "singles=new cannot be by closed"),
        ({"protocol": "closed", "new_share": 0.2}, "new_share=0.2 is for a split by open"),
        ({"protocol": "open", "cutoff": "2024-01-01"}, "is for a split by time-aware"),
        ({"protocol": "time-aware", "cutoff": "April"}, "A cutoff of 'April' is no day"),
        ({"protocol": "time-aware", "cutoff": "2024-02-30"}, "is no day"),
        ({"protocol": "time-aware", "cutoff": "2024-04-01", "test_share": 0.2}, "the same thing twice"),
        ({"protocol": "time-aware", "cutoff": "2030-01-01"}, "test part of fold 0 is empty; choose another"),
        ({"protocol": "time-aware", "folds": 3}, "3 folds cannot be made of a time-aware split"),
        ({"protocol": "time-aware", "test_share": 1.0}, "A test share of 1.0 cannot be"),
        ({"protocol": "open", "new_share": 0.0}, "A new share of 0.0 cannot be"),
        ({"protocol": "disjoined"}, "There is no protocol 'disjoined'"),
    ],
)
def test_what_cannot_be_is_one_sentence(options: dict, sentence: str) -> None:
    with pytest.raises(WhalebenchError, match=sentence) as error:
        propose_split(catalog(), **options)
    assert len(str(error.value)) <= 300


def test_a_catalog_without_what_a_protocol_needs_is_told_so() -> None:
    with pytest.raises(WhalebenchError, match="no photo which side it shows"):
        propose_split(catalog(viewpoint=""), protocol="side-aware")
    with pytest.raises(WhalebenchError, match="no photo on which day"):
        propose_split(catalog(date=""), protocol="time-aware")
    with pytest.raises(WhalebenchError, match="No individual of drawn was met twice"):
        propose_split(catalog(encounter=photos()["identity"]), protocol="open")


@pytest.mark.parametrize(
    ("protocol", "begin", "place", "sentence"),
    [
        ("closed", ("x0.jpg",), (1, -1), "shows no known individual"),
        ("side-aware", ("04-1-", "04-3-"), (2, -1), "the side that"),
        ("time-aware", ("03-0-",), (0, -1), "is on the other side of"),
    ],
)
def test_a_table_that_breaks_its_protocol_is_refused(
    protocol: str, begin: tuple[str, ...], place: tuple[int, int], sentence: str
) -> None:
    of = catalog()
    split = propose_split(of, protocol=protocol)
    with pytest.raises(WhalebenchError, match=sentence):
        check_split(moved(split, begin, place), of, protocol, split.parameters)


def test_an_individual_is_new_in_an_open_split_only_where_it_is_whole() -> None:
    """All of one tested in fold 1 is new there; one half tested and the other half valid is refused."""
    of = catalog()
    split = propose_split(of, protocol="open")
    check_split(moved(split, ("08-",), (1, -1)), of, "open", split.parameters)
    table = moved(split, ("08-0", "08-1"), (1, -1))
    table.loc[table["image"].str.startswith(("08-2", "08-3")), ["fold", "valid"]] = (2, 1)
    with pytest.raises(WhalebenchError, match="w08 is in the valid part of fold 1 but not in its train part"):
        check_split(table, of, "open", split.parameters)


def moved(split: Split, begin: tuple[str, ...], place: tuple[int, int]) -> pd.DataFrame:
    """The table with the photos whose names begin so in another fold and valid part."""
    rows = {image: (fold, group, valid) for image, fold, group, valid in split.table.itertuples(index=False)}
    rows |= {i: (place[0], rows[i][1], place[1]) for i in rows if i.startswith(begin)}
    return make_table(rows)
