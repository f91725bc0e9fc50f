"""The random twin of a split: the same counts, with what was kept apart dealt at random.

Within each individual, and among the photos of nobody, photos change places. So every part has as many photos
of each individual as before, every *new* one is new as before, and a run on the twin differs in one thing
only: photos of one encounter, day or side are on both sides. Its score less that on the strict split is what
such leaks are worth (leak inflation).
"""

from collections import Counter, defaultdict

from whalebench import WhalebenchError
from whalebench.benchmarks.core.catalog import Catalog
from whalebench.splits.assignment import LEFT_OUT, shuffle_key
from whalebench.splits.groupings import protocol_groups
from whalebench.splits.rules import TWIN, check_split
from whalebench.splits.split import Split
from whalebench.splits.table import GALLERY, Rows, column_digests, count_split, make_table, table_digest

NOTE = (
    "This is the random twin of split {}: photos of one encounter are on both sides of it, so its scores "
    "flatter; it is there to measure by how much."
)


def random_twin(split: Split, catalog: Catalog, seed: int = 0) -> Split:
    """The checked twin of a split of the catalog, the same for the same seed on any machine.

    Copies of one photo, what the catalog calls duplicates, and photos that are in no part stay where they
    are. Raises WhalebenchError for the twin of a twin, and where no photo can change places.
    """
    if split.protocol == TWIN:
        raise WhalebenchError(f"This split of {catalog.name} is a random twin itself and has none.")
    table = make_table(*_dealt(split, catalog, seed))
    if table.equals(split.table):
        raise WhalebenchError(
            f"No photo of {catalog.name} can change places within its individual, so this split has no "
            f"random twin: nothing that it keeps apart could leak."
        )
    parameters = split.parameters | {
        "twin_of": split.digest, "twin_protocol": split.protocol, "twin_seed": seed
    }  # fmt: skip
    check_split(table, catalog, TWIN, parameters)
    groups = protocol_groups(catalog.table, split.protocol, split.parameters.get("together", ()))
    return Split(
        table=table,
        protocol=TWIN,
        parameters=parameters,
        catalog_digest=catalog.digest,
        digest=table_digest(table),
        counts=count_split(table, catalog, groups, split.parameters["singles"]),
        warnings=(NOTE.format(split.digest[:8]),),
        catalog_columns=column_digests(catalog.table),
    )


def _dealt(split: Split, catalog: Catalog, seed: int) -> tuple[Rows, dict[str, int] | None]:
    """Fold, group and valid of each image of the twin, and its gallery where the split has one."""
    facts = catalog.table.set_index("image")
    copies = Counter(facts["content_digest"])
    duplicates = facts.get("duplicates", dict.fromkeys(split.table["image"], ""))
    rows = {row[0]: row[1:4] for row in split.table.itertuples(index=False)}
    gallery = (
        dict(zip(split.table["image"], split.table[GALLERY], strict=True)) if GALLERY in split.table else {}
    )
    movable: dict[str, list[str]] = defaultdict(list)
    for image in sorted(rows):
        content = facts["content_digest"][image]
        is_fixed = copies[content] > 1 if content else False
        if rows[image][0] != LEFT_OUT and not is_fixed and not duplicates[image]:
            movable[facts["identity"][image]].append(image)
    dealt, compared = dict(rows), dict(gallery)
    for images in movable.values():
        shuffled = sorted(images, key=lambda image: shuffle_key(seed, "twin", image))
        for image, place in zip(shuffled, images, strict=True):
            dealt[image] = (rows[place][0], rows[image][1], rows[place][2])
            compared |= {image: gallery[place]} if gallery else {}
    return dealt, compared or None
