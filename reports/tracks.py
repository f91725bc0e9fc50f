"""Which runs are one contestant's, and tracks: which were given so much the same that they may be ranked.

Tracks are computed from what the harness counted, see `Usage`; no method says anything about itself.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

from pydantic import JsonValue

from whalebench.benchmarks.core.record import RunRecord
from whalebench.benchmarks.core.usage import Usage, track_words
from whalebench.reports.wording import typed

ALIKE = 1.1
"""Within one track, most over least photos seen, each as often as it was, and looks at a test photo."""
OF_A_SIZE = 2.0
"""Within one track, the most parameters over the least."""
COUNTED = (
    "photos seen", "passes over train", "photos seen by stage", "looks at a test photo", "annotations",
    "pixels", "parameters", "starting weights", "tuning budget", "set by hand",
)  # fmt: skip
"""What `differences` names of what the harness counted."""


def contestants(records: Sequence[RunRecord]) -> dict[str, str]:
    """By run: its method, followed by what its runs on this board differ in: settings, then the code.

    Runs of one contestant differ in fold, seed, machine and date only, so those of other code are another's,
    and what they learned is no further seed of it. Fields that only some of the runs know
    (those of other versions) tell nothing apart, but those of ensembles do: they have what was asked for.
    Settings of parts (with a dot) are named only where the method's own do not tell all apart: a run without
    a part has settings for it, too.
    """
    by_method: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_method[record.method].append(record)
    names = {}
    for method, runs in by_method.items():
        configs = [_flat(run.config) for run in runs]
        optional = dict.fromkeys(
            key for run, config in zip(runs, configs, strict=True) if run.members for key in config
        )
        configs = [dict.fromkeys(optional, "none") | config for config in configs]
        shared = [key for key in configs[0] if all(key in other for other in configs)]
        differing = [key for key in shared if len({one[key] for one in configs}) > 1]
        of_method = [key for key in differing if "." not in key]
        if _told_apart(configs, of_method) == _told_apart(configs, differing):
            differing = of_method
        short = {key: _shortened({config[key] for config in configs}) for key in differing}
        for run, config in zip(runs, configs, strict=True):
            names[run.run] = " ".join([method, *(f"{key}={short[key][config[key]]}" for key in differing)])
    return names | _with_code(records, names)


def _with_code(records: Sequence[RunRecord], names: Mapping[str, str]) -> dict[str, str]:
    """By run of a contestant whose runs are of different code: its name with the digest of its own."""
    codes: dict[str, set[str]] = defaultdict(set)
    for record in records:
        codes[names[record.run]].add(record.code_digest)
    return {
        record.run: f"{names[record.run]} ({_code(record.code_digest)})"
        for record in records
        if len(codes[names[record.run]]) > 1
    }


def _code(digest: str) -> str:
    return f"code {digest[:8]}" if digest else "code not recorded"


def _shortened(values: Collection[str]) -> dict[str, str]:
    """Values as a name shows them: of paths the last part, where that tells them apart as well."""
    last = {value: value.rstrip("/").rsplit("/", 1)[-1] for value in values}
    return last if len(set(last.values())) == len(last) else {value: value for value in values}


def _told_apart(configs: Sequence[Mapping[str, str]], keys: Sequence[str]) -> int:
    """How many configurations differ in these keys."""
    return len({tuple(config[key] for key in keys) for config in configs})


def settings_of(record: RunRecord) -> dict[str, str]:
    """The fields of its configuration as they are typed after --set, those of parts with a dot."""
    return _flat(record.config)


def _flat(config: Mapping[str, JsonValue], before: str = "") -> dict[str, str]:
    """The fields of a configuration as they are typed after --set, nested ones with a dot."""
    fields: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            fields |= _flat(value, f"{before}{key}.")
        else:
            fields[before + key] = typed(value)
    return fields


def tracks(records: Sequence[RunRecord]) -> dict[str, str]:
    """By run the text of its track: runs of one benchmark with one text may be ranked together.

    In these are equal: starting weights, pixels, the kinds of annotations and the parts they were read on,
    tuning budget, oracle and transductive. Photos seen a train photo and looks at a test photo are within
    10 %, parameters within a factor of two, each the mean over the folds and seeds of a contestant; which of
    them count as near is settled from the least upwards. Older runs, of which nothing was counted, keep the
    text of their record.
    """
    texts = {record.run: record.track for record in records if record.usage is None}
    alike: dict[str, dict[str, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.usage is not None:
            contestant = json.dumps([record.method, record.config], sort_keys=True)
            alike[_equal_in(record, record.usage)][contestant].append(record)
    for contestants in alike.values():
        for group in _near(list(contestants.values())):
            texts |= dict.fromkeys((record.run for record in group), _words(group))
    return texts


def differences(first: RunRecord, second: RunRecord) -> list[tuple[str, str, str]]:
    """What two runs differ in, a row (what, of the first, of the second) each; empty where they do not.

    What was not counted, because a run is of an older version, is "not counted".
    """
    rows = zip(facts_of(first).items(), facts_of(second).values(), strict=True)
    return [(what, one, other) for (what, one), other in rows if one != other]


def _equal_in(record: RunRecord, usage: Usage) -> str:
    """What is equal in all runs of a track, as one key."""
    kinds = {kind: sorted(parts) for kind, parts in usage.annotations.items()}
    own = [usage.weights, usage.pixels, kinds, usage.tuning_budget, record.oracle, record.transductive]
    return json.dumps([record.benchmark, *own], sort_keys=True)


def _near(contestants: list[list[RunRecord]]) -> list[list[RunRecord]]:
    """The runs of contestants that are equal otherwise, in groups that are near in what is measured."""
    measures: tuple[tuple[Callable[[RunRecord], float], float], ...] = (
        (_passes, ALIKE),
        (lambda record: _usage(record).looks, ALIKE),
        (lambda record: _usage(record).parameters, OF_A_SIZE),
    )
    groups = [contestants]
    for measure, factor in measures:
        groups = [part for group in groups for part in _cut(group, measure, factor)]
    return [[record for runs in group for record in runs] for group in groups]


def _cut(
    contestants: list[list[RunRecord]], measure: Callable[[RunRecord], float], factor: float
) -> list[list[list[RunRecord]]]:
    """The contestants in groups, in none of which the largest mean is more than the factor of the least."""
    means = {id(runs): sum(map(measure, runs)) / len(runs) for runs in contestants}
    groups: list[list[list[RunRecord]]] = []
    for runs in sorted(contestants, key=lambda runs: means[id(runs)]):
        if groups and means[id(runs)] <= factor * means[id(groups[-1][0])] + 1e-9:
            groups[-1].append(runs)
        else:
            groups.append([runs])
    return groups


def _words(group: Sequence[RunRecord]) -> str:
    first = group[0]
    marks = [mark for mark in ("oracle", "transductive") if getattr(first, mark)]
    words = track_words([_usage(record) for record in group], [_train_photos(record) for record in group])
    return ", ".join([words, *marks])


def facts_of(record: RunRecord) -> dict[str, str]:
    """What a run was given, by what a person calls it."""
    usage = record.usage
    facts = {
        "oracle": "yes" if record.oracle else "no",
        "other test photos": "used" if record.transductive else "not used",
    }
    if usage is None:
        return facts | dict.fromkeys(COUNTED, "not counted")
    annotated = (f"{kind} of {_listed(parts)}" for kind, parts in usage.annotations.items())
    counted = (
        f"{usage.photos_seen:,}",
        f"{_passes(record):.1f}",
        _listed(usage.photos_by_stage),
        f"{usage.looks:,g}",
        "; ".join(annotated),
        " + ".join(usage.pixels),
        f"{usage.parameters:,}",
        _listed({name: digest[:8] for name, digest in usage.weights.items()}),
        usage.tuning_budget,
        ", ".join(f"{name}={value}" for name, value in usage.by_hand.items()),
    )
    return facts | {name: value or "none" for name, value in zip(COUNTED, counted, strict=True)}


def _listed(values: Mapping[str, int | str]) -> str:
    """As "train 1,000, test 20"."""
    return ", ".join(
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}" for name, value in values.items()
    )


def _usage(record: RunRecord) -> Usage:
    assert record.usage is not None
    return record.usage


def _passes(record: RunRecord) -> float:
    """Photos seen by all trainings, a train photo of a known individual."""
    return _usage(record).photos_seen / max(1, _train_photos(record))


def _train_photos(record: RunRecord) -> int:
    return record.counts.get("train_known_photos", 0)
