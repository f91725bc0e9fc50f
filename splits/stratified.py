"""The protocol stratified-encounters: whole groups dealt to folds, and a valid part lent to each fold."""

from whalebench.splits.dealing import NEVER, deal
from whalebench.splits.groups import Group, lone_identities
from whalebench.splits.lending import lend
from whalebench.splits.split import Rows


def stratified_rows(
    groups: tuple[Group, ...], *, folds: int, singles: str, valid_share: float, seed: int
) -> tuple[Rows, tuple[str, ...]]:
    """Fold, group and valid of each image, with a warning when groups had to stay out of the folds."""
    lone = lone_identities(groups)
    pinned = frozenset[str]()
    if singles == "train":
        pinned = frozenset(group.name for group in groups if lone.intersection(group.identities))
        lone = frozenset()
    fold_of = deal(groups, folds, seed, pinned=pinned, lone=lone)
    valid_of = lend(
        groups,
        fold_of,
        folds,
        lendable={name for name, fold in fold_of.items() if fold != NEVER},
        lone=lone,
        share=valid_share,
        seed=seed,
    )
    rows = {
        image: (fold_of[group.name], group.name, valid_of.get(group.name, NEVER))
        for group in groups
        for image in group.images
    }
    kept = sum(fold == NEVER for fold in fold_of.values()) - len(pinned)
    warning = f"{kept} groups of several individuals fit no fold and are always in train."
    return rows, (warning,) * (kept > 0)
