"""The disjoint protocol: no individual of a fold's test is in its train; some of its photos are the gallery.

So a method is asked whether it tells individuals apart that it never met, as by the disjoint-set splits of
wildlife-datasets (Cermak et al. 2024): the photos of an individual of the test are shared out in whole groups
to a gallery, whose names the harness knows, and to queries. In all other folds the individual is in train.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from whalebench import WhalebenchError
from whalebench.benchmarks.core.catalog import Catalog
from whalebench.splits.assignment import (
    NEVER,
    Group,
    allocate_valid,
    assign_folds,
    group_photos,
    groups_by_identity,
    shuffle_key,
    single_encounter_identities,
)
from whalebench.splits.groupings import of_nobody

Gallery = Mapping[str, int]
"""The fold in whose gallery each image is, NEVER for none."""


def disjoint_rows(
    catalog: Catalog, groups: tuple[Group, ...], *, folds: int, singles: str, valid_share: float, seed: int
) -> tuple[dict[str, tuple[int, str, int]], Gallery]:
    """Fold, group and valid of each image, and its gallery; a photo of a gallery is never tested itself.

    Individuals of one group, and groups with a photo of nobody, are always in train. The valid part is one
    of train's individuals. Raises WhalebenchError where no individual has two groups.
    """
    del singles  # there is no choice
    wholes = _whole_individuals(catalog, groups)
    whole_of = {image: whole.name for whole in wholes for image in whole.images}
    single = single_encounter_identities(groups)
    never = of_nobody(catalog, wholes) | {
        whole.name for whole in wholes if single.issuperset(whole.identities)
    }
    if len(never) == len(wholes):
        raise WhalebenchError(
            f"No individual of {catalog.name} was met twice, so none can have photos in the gallery and "
            f"among the queries: a disjoint split needs individuals of several encounters."
        )
    everybody = {identity for whole in wholes for identity in whole.identities}
    of_whole = assign_folds(wholes, folds, seed, train_only=never, single_encounter=everybody)
    fold_of = {group.name: of_whole[whole_of[group.name]] for group in groups}
    tested = [group for group in groups if fold_of[group.name] != NEVER]
    queries = _queries(tested, seed)
    valid_of = allocate_valid(
        groups,
        fold_of,
        folds,
        candidates={group.name for group in tested},
        single_encounter=frozenset(),
        share=valid_share,
        seed=seed,
    )
    rows, gallery = {}, {}
    for group in groups:
        fold, is_query = fold_of[group.name], group.name in queries
        for image in group.images:
            rows[image] = (fold if is_query else NEVER, group.name, valid_of.get(group.name, NEVER))
            gallery[image] = NEVER if is_query else fold
    return rows, gallery


def _whole_individuals(catalog: Catalog, groups: Iterable[Group]) -> tuple[Group, ...]:
    """The groups with all those of an individual joined to one, and so individuals that a group joins."""
    name_of = {image: group.name for group in groups for image in group.images}
    table = catalog.table
    return group_photos(table.assign(encounter=table["image"].map(name_of), content_digest=table["identity"]))


def _queries(groups: Sequence[Group], seed: int) -> frozenset[str]:
    """The names of the groups that are queries: about half of an individual's photos, not all its groups."""
    groups_of = groups_by_identity(groups)
    left = {identity: len(appearances) for identity, appearances in groups_of.items()}
    photos = {identity: sum(group.size for group in own) for identity, own in groups_of.items()}
    asked: Counter[str] = Counter()
    chosen = set()
    for group in sorted(groups, key=lambda group: shuffle_key(seed, "query", group.name)):
        due = any(
            not asked[identity] or 2 * (asked[identity] + group.size) <= photos[identity]
            for identity in group.identities
        )
        if due and all(left[identity] > 1 for identity in group.identities):
            chosen.add(group.name)
            for identity in group.identities:
                left[identity] -= 1
                asked[identity] += group.size
    return frozenset(chosen)
