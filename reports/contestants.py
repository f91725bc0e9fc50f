"""Who competes in a table: methods, told apart by the settings in which their runs differ."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from whalebench.benchmarks.record import RunRecord


def contestants(records: Sequence[RunRecord]) -> dict[str, str]:
    """By run: its method, followed by the settings in which the method's runs in this table differ, if any.

    Runs of one contestant differ in fold, seed, machine and date only. Fields that only some of the runs know
    (those of other versions) tell nothing apart, but those of ensembles do: they have what was asked for.
    Settings of parts (with a dot) are named only where the method's own do not tell all apart: a run without
    a part has settings for it, too.
    """
    by_method: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_method[record.method].append(record)
    names = {}
    for method, runs in by_method.items():
        settings = [_flat(run.config) for run in runs]
        asked = dict.fromkeys(
            key for run, own in zip(runs, settings, strict=True) if run.members for key in own
        )
        settings = [dict.fromkeys(asked, "none") | own for own in settings]
        shared = [key for key in settings[0] if all(key in other for other in settings)]
        differing = [key for key in shared if len({one[key] for one in settings}) > 1]
        own_keys = [key for key in differing if "." not in key]
        if _told_apart(settings, own_keys) == _told_apart(settings, differing):
            differing = own_keys
        for run, own in zip(runs, settings, strict=True):
            names[run.run] = " ".join([method, *(f"{key}={own[key]}" for key in differing)])
    return names


def _told_apart(settings: Sequence[Mapping[str, str]], keys: Sequence[str]) -> int:
    return len({tuple(one[key] for key in keys) for one in settings})


def _flat(config: Mapping[str, JsonValue], before: str = "") -> dict[str, str]:
    """The fields of a configuration as they are typed after --set, nested ones with a dot."""
    fields: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            fields |= _flat(value, f"{before}{key}.")
        else:
            fields[before + key] = _typed(value)
    return fields


def _typed(value: JsonValue) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case list():
            return "x".join(map(_typed, value))
    return str(value)
