"""What one run came to, in a few lines: its scores, what they are owed to, and of an ensemble its members."""

from collections.abc import Mapping, Sequence
from math import isnan, log, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from whalebench.benchmarks.core.record import (
    VARIANTS,
    Diagnosis,
    RunRecord,
    plain,
    read_predictions,
    read_record,
)
from whalebench.reports.details import BY, EFFORT, SIDES, abundance, candidates, side_cells
from whalebench.reports.drawings.runs import OVERLAPS
from whalebench.reports.judging import Judgements, judge
from whalebench.reports.leaks import Told, leak_counts, leak_warnings, read_told, without_leaks
from whalebench.reports.metrics.breakdown import Effort
from whalebench.reports.metrics.jackknife import (
    Deletions,
    Difference,
    deletions,
    difference,
    interval_of,
    intervals,
)
from whalebench.reports.metrics.ranking import constant_answer, mean, new_is_candidate, uniform_guess
from whalebench.reports.metrics.sides import Sides
from whalebench.reports.tables import FittedTable, facts_table, table_of, warning_lines
from whalebench.reports.tracks import contestants
from whalebench.reports.wording import (
    CANDIDATE_SET,
    METRICS,
    UNDEFINED,
    between,
    candidate_set,
    duration,
    number,
    percent,
    typed,
    with_interval,
)

Document = dict[str, Any]
WITHOUT_LEAKS = "MAP@5 without leaks"
LEADS = {"map_at_5": "MAP@5", "log_loss": "log loss"}
"""The metrics in which an ensemble is held against its best member, and a step against the state before it;
of log loss, the lower is the better."""


def ensemble_document(record: RunRecord, folder: Path, members: Sequence[Path]) -> Document:
    """The record, a row for each member, the ensemble, and each step, and leads over the best member.

    The best member is that with the highest MAP@5 on test, of equal ones by log loss, which favours the
    member: the ensemble did not know. The leads are paired, on the same individuals.
    """
    scores = [deletions(read_predictions(place)) for place in (*members, folder)]
    records = [*(read_record(place) for place in members), record]
    rows = [
        {"run": each.run, "method": name, "track": each.track} | _numbers(values, ("top_1", "log_loss"))
        for name, each, values in zip(_names(records), records, scores, strict=True)
    ]
    merits = [(each["map_at_5"].value, -np.nan_to_num(each["log_loss"].value)) for each in scores[:-1]]
    best = merits.index(max(merits))
    added = {"rows": rows, "best_member": records[best].run, "leads": _leads(scores[-1], scores[best])}
    return record.model_dump(mode="json") | added | {"steps": step_rows(record, folder)}


def step_rows(record: RunRecord, folder: Path) -> list[Document]:
    """A row for the scores without any step and one after each, empty where the run has no steps.

    A row has `step`, `transductive`, `chosen`, `unfit`, `valid_map_at_5`, `map_at_5` with `_low` and `_high`,
    `log_loss`, and `leads` over the row before it: by metric `value`, `low`, `high`, paired.
    """
    if not record.variants:
        return []
    tables = read_predictions(folder, VARIANTS).groupby("variant", sort=False)
    scores = {name: deletions(table) for name, table in tables}
    rows, before = [], None
    for name, said in record.variants.items():
        assert isinstance(said, dict)
        now = scores.get(name)
        leads: Document = _leads(now, before) if now and before else {}
        rows.append({"step": name} | said | _numbers(now, ("log_loss",)) | {"leads": leads})
        before = now or before
    return rows


def _numbers(values: Mapping[str, Deletions] | None, keys: Sequence[str]) -> Document:
    """MAP@5 with its interval, and other metrics; None where there are no values."""
    if values is None:
        return dict.fromkeys(("map_at_5", "map_at_5_low", "map_at_5_high", *keys))
    ends = interval_of("map_at_5", values["map_at_5"])
    numbers = {key: values[key].value for key in ("map_at_5", *keys)}
    return dict(plain(numbers | {"map_at_5_low": ends.low, "map_at_5_high": ends.high}))


def _leads(now: Mapping[str, Deletions], before: Mapping[str, Deletions]) -> Document:
    return {key: plain(difference(now[key], before[key])._asdict()) for key in LEADS}


def _names(records: Sequence[RunRecord]) -> list[str]:
    """The methods; where one has several runs, with the settings in which these differ, or their seeds."""
    methods = [record.method for record in records]
    if len(set(methods)) == len(methods):
        return methods
    named = contestants(records)
    names = [named[record.run] for record in records]
    return [
        name if names.count(name) == 1 else f"{name} seed={record.seed}"
        for name, record in zip(names, records, strict=True)
    ]


def ensemble_report(document: Document, folder: str) -> Group:
    """What `rich` prints of the document."""
    chosen, calibration = document["chosen"], document["calibration"]
    trained, aside = (calibration.get(f"{key}_log_loss") for key in ("train", "out_of_fold"))
    losses = f"{number(trained)} of photos learned from, {number(aside)} of photos set aside"
    facts = {
        "rule": document["config"]["rule"],
        "chosen on valid": " ".join(f"{key}={_said(chosen[key])}" for key in chosen),
        "log loss on valid": "" if trained is None else losses,
        "time": duration(sum(document["seconds"].values())),
        "record": folder,
    }
    title = "ensemble on {benchmark}, fold {fold}, seed {seed}".format_map(document)
    notes = [Text(f"! {warning}", style="yellow") for warning in document["warnings"]]
    rows = [
        {
            "": row["method"],
            "MAP@5": with_interval(row, "map_at_5"),
            "top-1": number(row["top_1"]),
            "log loss": number(row["log_loss"]),
            "run": row["run"],
        }
        for row in document["rows"]
    ]
    verdict = map(Text, verdicts(document))
    return Group(facts_table(facts, title), *notes, table_of(rows), *verdict, *step_blocks(document["steps"]))


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(f"{one:.3g}" for one in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower()


def verdicts(document: Document) -> list[str]:
    """Whether the ensemble is better than its best member, a sentence each metric, no more than is sure."""
    sentences = []
    for key, name in LEADS.items():
        ends = document["leads"][key].values()
        lead = Difference(*(nan if end is None else end for end in ends))
        if isnan(lead.value):
            continue
        word = "better" if not lead.value or (lead.value > 0) == (key == "map_at_5") else "worse"
        by = between(*lead) if lead.value >= 0 else between(-lead.value, -lead.high, -lead.low)
        if lead.differs:
            sentences.append(f"{name}: {word} than its best member by {by} on the same photos.")
        else:
            sentences.append(f"{name}: not to be told apart from its best member, {word} by {by}.")
    return sentences


def step_blocks(rows: Sequence[Document]) -> list[Table | Text]:
    """What `rich` prints of the rows; nothing where there are none."""
    if not rows:
        return []
    legend = "Gained: in MAP@5 over the row above, on the same photos. Settings were chosen on valid."
    return [table_of([_step_cells(row) for row in rows], "Step by step"), Text(legend, style="dim")]


def _step_cells(row: Document) -> dict[str, str]:
    kind = "transductive" if row["transductive"] else "inductive"
    return {
        "step": row["step"],
        "": "does not fit" if row["unfit"] else kind if row["leads"] else "",
        "valid MAP@5": number(row["valid_metrics"].get("map_at_5")),
        "MAP@5": number(row["map_at_5"]),
        "gained": between(**row["leads"]["map_at_5"]) if row["leads"] else "",
        "log loss": number(row["log_loss"]),
    }


NAMES = {
    "test": "as they are",
    "annotated": "those with an annotated animal",
    "without_background": "without background",
    "without_animal": "without the animal",
    "mirrored": "mirrored",
}


def explain_report(run: str, diagnosis: Diagnosis, shown: Sequence[dict[str, Any]], picture: str) -> Group:
    """What `rich` prints of an explanation: the score on altered photos, the photos shown, the picture."""
    rows = [
        {
            "test photos": name,
            "MAP@5": number(diagnosis.map_at_5.get(key)),
            "chance": number(diagnosis.chance.get(key)),
        }
        for key, name in NAMES.items()
        if key != "annotated" or diagnosis.photos.get("none")  # else they are all the test photos
    ]
    photos = [
        {
            "photo": row["image"],
            "truth": row["truth"],
            "rank": row["rank"],
            "answer": row["answer"],
            "largest drop": number(row["largest_drop"], 2),
            "on the animal": _percent(row["on_animal"]),
            "animal": _percent(row["animal"]),
        }
        for row in shown
    ]
    counts = ", ".join(f"{kind} {count}" for kind, count in diagnosis.photos.items() if count)
    notes = warning_lines([diagnosis.reason] if diagnosis.reason else [])
    hint = "Without the animal the score should be at chance, or the background gives the individual away."
    return Group(
        table_of(rows, f"{run}: MAP@5 on altered test photos"),
        facts_table({"photos": counts, "picture": picture}),
        *notes,
        table_of(photos, "Where it looks: what hiding a part costs, in nats"),
        Text(hint, style="dim"),
    )


def _percent(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.0%}"


def run_summary(record: RunRecord, runs_folder: Path) -> Group:
    """What `rich` prints after a run: scores with their intervals or why there are none; the record."""
    hint = Text("Compare runs: whalebench report. Repeat this one: add --force.", style="dim")
    return Group(*_summary(record, runs_folder), hint)


def _summary(record: RunRecord, runs_folder: Path) -> list[Table | Text]:
    """Scores with their intervals or why there are none, the record, other ways to score, warnings."""
    facts = {"does not fit": record.unfit} if record.unfit else _scores(record, runs_folder)
    facts |= {"finished": record.created, "record": str(runs_folder / record.run)}
    told = read_told(runs_folder, record)
    facts |= _less_leaks(record, told, runs_folder)
    title = f"{record.method} on {record.benchmark}, fold {record.fold}, seed {record.seed}"
    warnings = warning_lines([*record.warnings, *leak_warnings(told, (record.fold,))])
    return [facts_table(facts, title), *_variants(record), *warnings]


def _less_leaks(record: RunRecord, told: Told, runs_folder: Path) -> dict[str, str]:
    """The score on the test photos that leak nothing, where some do."""
    leaking = told.of_fold(record.fold)
    if record.unfit or not leaking:
        return {}
    less = without_leaks(read_predictions(runs_folder / record.run, record=record), leaking)
    score = between(less["map_at_5"], less["low"], less["high"])
    return {WITHOUT_LEAKS: f"{score} of {less['photos']:,.0f} photos, {len(leaking):,} leak"}


def run_document(folder: Path) -> Document:
    """The record of a run, with `floors`, scores by `buckets` and `sides`, the review `effort`, its curve.

    `leaks`, `leak_warnings` and MAP@5 `without_leaks`, empty where none leak, are by the audit as it is now.
    Metrics have ends of intervals beside them, as in `report --json`; `doubts` says by metric why one may be
    too narrow. All that is added is empty for a run that does not fit; buckets for older ones, too.
    """
    record = read_record(folder)
    document: Document = {"doubts": {}, "floors": {}, "buckets": [], "effort": [], "sides": []}
    told = read_told(folder.parent, record)
    document |= {"leaks": leak_counts(told, record.fold), "without_leaks": {}}
    document["leak_warnings"] = [*leak_warnings(told, (record.fold,))]
    document |= {"metrics": dict(record.metrics), "effort_curve": {"candidates": [], "found": []}}
    if not record.unfit:
        queries, judgements = read_predictions(folder), Judgements(folder.parent, [record])
        judged = judgements.get(record, closely=True)
        judged = judged or judgements.put(record, judge(queries, closely=True))
        judgements.keep()
        ends = {key: value for key, value in judged.metrics.items() if key.endswith(("_low", "_high"))}
        document |= {"metrics": document["metrics"] | ends, "doubts": judged.doubts}
        document["floors"] = _floors(record, queries)
        document["without_leaks"] = without_leaks(queries, told.of_fold(record.fold))
        document |= judged.breakdown.document() if judged.breakdown else {}
    return record.model_dump(mode="json") | dict(plain(document))


def _floors(record: RunRecord, queries: pd.DataFrame) -> Document:
    """MAP@5 of the constant answer and of the uniform guess, and log loss of the latter, as far as known."""
    worth: Document = {}
    if record.constant_answer:
        worth["constant_answer"] = mean(constant_answer(queries["truth"], record.constant_answer))
    if identities := record.counts.get("identities"):
        with_new = new_is_candidate(queries)
        guess = uniform_guess(queries["truth"], identities, new_is_candidate=with_new)
        worth |= {"uniform_guess": mean(guess), "uniform_log_loss": log(identities)}
    return worth


def _floor_blocks(record: RunRecord, document: Document) -> list[Any]:
    """What is to be had without a look at any photo, and whether the run is no better."""
    worth, metrics = document["floors"], document["metrics"]
    facts, warnings = {}, []
    if "constant_answer" in worth:
        facts["constant answer"] = (
            f"MAP@5 {number(worth['constant_answer'])} ({', '.join(record.constant_answer)})"
        )
        if (metrics["map_at_5_low"] or 0) <= worth["constant_answer"]:
            warnings.append("Its interval holds what the constant answer has: it may have learned nothing.")
    if "uniform_guess" in worth:
        guess, loss = worth["uniform_guess"], worth["uniform_log_loss"]
        facts["uniform guess"] = f"MAP@5 {number(guess)}, log loss {number(loss)}"
        if (metrics["log_loss"] or 0) > loss:
            warnings.append("Its log loss is above that of the uniform guess: its probabilities mislead.")
    return [facts_table(facts, "Without a look at any photo"), *warning_lines(warnings)] if facts else []


def show_report(document: Document, folder: Path) -> Group:
    """What `rich` prints of a run: its summary, what it was given, its score by photos, the effort."""
    record = read_record(folder)
    blocks: list[Any] = [*_summary(record, folder.parent), facts_table(_given(record), "What it was given")]
    blocks += _floor_blocks(record, document)
    doubts = document["doubts"]
    blocks += warning_lines(f"{METRICS[key]} {doubts[key]}." for key in METRICS if key in doubts)
    if rows := bucket_rows(document["buckets"]):
        title = Text("By what is known of the test photos", style="bold")
        blocks += [title, FittedTable(rows, ("individuals",))]
    elif not record.unfit:
        blocks += warning_lines(
            ["It was made before scores were kept by photos in train, viewpoint, species."]
        )
    blocks += _side_blocks(document["sides"])
    if rows := effort_rows(effort_of(document)):
        blocks += [table_of(rows, "What a reviewer must look at"), Text(EFFORT, style="dim")]
    return Group(*blocks)


ALIKE = (
    "Photos of another side find the individual as well as those of the same side: where the sides look "
    "different, something else than the pattern is read, such as the light, the place or the day."
)


def _side_blocks(of_run: Sequence[Document]) -> list[Any]:
    """What is found by the same side and by others, and whether they are too much alike."""
    if not of_run:
        return []
    defined = (
        {key: nan if value is None else value for key, value in one["metrics"].items()} for one in of_run
    )
    found = [Sides(**one | {"metrics": metrics}) for one, metrics in zip(of_run, defined, strict=True)]
    table = table_of([side_cells(one) for one in found], "By photos of the same side, and of others")
    return [table, Text(SIDES, style="dim"), *warning_lines([ALIKE] if found[0].alike else [])]


def _given(record: RunRecord) -> dict[str, Any]:
    """What the harness counted of what a run was given; the words of older runs."""
    usage = record.usage
    if usage is None:
        return {"track": record.track}
    return {
        "track": record.track,
        "photos seen": usage.photos_seen,
        "of them": ", ".join(f"{stage} {photos:,}" for stage, photos in usage.photos_by_stage.items()),
        "looks a test photo": f"{usage.looks:g}",
        "annotations read": "; ".join(
            f"{kind} of {', '.join(f'{part} {photos:,}' for part, photos in parts.items())}"
            for kind, parts in usage.annotations.items()
        ),
        "pixels": ", ".join(usage.pixels),
        "parameters": usage.parameters,
        "starting weights": ", ".join(usage.weights),
        "set by hand": " ".join(f"{key}={typed(value)}" for key, value in usage.by_hand.items()),
        "preset": record.preset,
        "tuning budget": usage.tuning_budget,
    }


def bucket_rows(of_run: Sequence[Document]) -> list[Document]:
    """A row of texts for each of a run's buckets (`Bucket._asdict`), as a table shows them."""
    return [
        {
            "test photos": BY[bucket["by"]].format(bucket["name"]),
            "photos": bucket["photos"],
            "individuals": bucket["individuals"],
            "MAP@5": with_interval(bucket["metrics"], "map_at_5"),
            "top-1": with_interval(bucket["metrics"], "top_1"),
        }
        for bucket in of_run
    ]


def effort_of(document: Document) -> list[Effort]:
    """The effort of a run's document, whose undefined ends are None."""
    rows: list[Document] = document["effort"]
    defined = ({key: nan if value is None else value for key, value in row.items()} for row in rows)
    return [Effort._make(row[key] for key in Effort._fields) for row in defined]


def effort_rows(of_run: Sequence[Effort]) -> list[Document]:
    """A row of texts for each share of matches, as a table shows them."""
    return [
        {
            "of the matches": percent(one.share),
            "candidates a photo": candidates(one),
            "found": percent(one.found),
            "abundance": abundance(one),
        }
        for one in of_run
    ]


def _scores(record: RunRecord, runs_folder: Path) -> dict[str, str]:
    ends = intervals(read_predictions(runs_folder / record.run))
    metrics: dict[str, float | None] = dict(record.metrics)
    for key, each in ends.items():
        metrics |= {f"{key}_low": each.low, f"{key}_high": each.high}
    facts = {name: with_interval(metrics, key) for key, name in METRICS.items()}
    facts[CANDIDATE_SET] = candidate_set(metrics)
    facts["valid MAP@5"] = number(record.valid_metrics.get("map_at_5"))
    facts |= {f"found in {part}": _location(record.location.get(part)) for part in ("test", "valid")}
    facts["time"] = duration(sum(record.seconds.values()))
    return facts


def _variants(record: RunRecord) -> list[Table]:
    """The run and other ways to score with what it learned, a row each; nothing where there are none."""
    if not record.variants:
        return []
    whole = {"metrics": record.metrics, "valid_metrics": record.valid_metrics}
    variants: dict[str, Any] = {"this run": whole, **record.variants}
    rows = []
    for name, scores in variants.items():
        test, valid = scores["metrics"], scores["valid_metrics"]
        on_test = {METRICS[key]: number(test.get(key)) for key in ("map_at_5", "top_1", "log_loss")}
        on_valid = {f"valid {METRICS[key]}": number(valid.get(key)) for key in ("map_at_5", "log_loss")}
        rows.append({"": name} | on_test | on_valid)
    return [table_of(rows)]


def _location(located: Any) -> str:
    """How well the animals of one part were localized, on one line; empty for a method that does not."""
    if not isinstance(located, dict):
        return ""
    parts = [
        f"{name} {number(located[f'{key}_mean'], 2)} mean"
        for key, name in OVERLAPS.items()
        if f"{key}_mean" in located
    ]
    if "landmark_error_median" in located:
        median, most = (percent(located[f"landmark_error_{end}"]) for end in ("median", "p90"))
        pixels = number(located.get("landmark_pixels_median"), 1)
        parts.append(f"landmark error {median} median ({pixels} pixels), {most} p90")
    if "fallback" in located:
        parts.append(f"{located['fallback']} of {located['photos']} photos fell back to the whole photo")
    return "; ".join(parts)
