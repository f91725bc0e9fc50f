"""One run: a method on one fold of a benchmark, from frozen photos to a record that is whole or absent."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whalebench import RunFailedError, WhalebenchError, __version__
from whalebench.benchmarks.core import ledger
from whalebench.benchmarks.core.catalog import take_stamp, verify_kept_photos
from whalebench.benchmarks.core.code import Code, read_code
from whalebench.benchmarks.core.files import (
    differs_from_digest,
    digest_file,
    digest_text,
    parse_json,
    with_digest,
)
from whalebench.benchmarks.core.machine import (
    MEMBER,
    accelerator_signs,
    choose_device,
    cores,
    hardware,
    peak_memory_mb,
    refuse_full_disk,
    refuse_small_memory,
    versions,
)
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.record import (
    METRIC_KEYS,
    WEIGHTS,
    RunRecord,
    find_run,
    read_record,
    read_runs,
    stored_bytes,
    verified,
    write_record,
    write_run,
)
from whalebench.benchmarks.core.usage import track_words
from whalebench.benchmarks.core.workspace import Workspace, atomic_text, run_lock
from whalebench.benchmarks.registry import (
    AT,
    Benchmark,
    load_benchmark,
    load_catalog,
    photos_name,
    reopen_benchmark,
    split_stem,
)
from whalebench.benchmarks.running.evaluation import CALIBRATION, constant_answer, new_share_warnings
from whalebench.benchmarks.running.folds import OpenFold, Views, contents, fold_views, open_fold
from whalebench.methods.guests import blamed
from whalebench.methods.registry import (
    configure,
    declared_class,
    file_of,
    find_method,
    modules_of,
    name_of,
)
from whalebench.splits.inner import check_nested, keep_inner_folds, propose_inner_folds

if TYPE_CHECKING:  # a finished run is found without torch
    import torch

    from whalebench.benchmarks.core.checkpoint import CheckpointStore
    from whalebench.benchmarks.running.harness import RunHarness
    from whalebench.benchmarks.running.outcome import Submission
    from whalebench.methods.method import Method, MethodConfig
    from whalebench.methods.parts.looks import LooksOnDisk
    from whalebench.methods.parts.pipeline import Pipeline

START = re.compile(r"(?<![\w.])start_from=((?:[^,]|,(?![\w:.]+=))+)")
"""The field of a method that names a finished run, up to a next field; a path may have commas."""

UNFINISHED = "unfinished"
"""The folder in the workspace's cache with one folder for each run that was begun and is not written."""

TRAININGS = "training-*"
"""The files there that a run goes on from."""

EMBEDDED = "embedded"
"""The folder there with what networks that never learn made of photos."""

NOTES = "found"
"""The folder there with a note for each request that a finished run answers."""

KEPT = "then give the same command again: what was learned is kept, and it goes on from there"
"""How a sentence ends on a run that cannot be written."""


@dataclass(frozen=True)
class RunRequest:
    """What is asked for: together with the catalog and the split it determines every number."""

    method: str
    """Its name; until it is `resolved` perhaps its file, as ./my_method.py."""
    benchmark: str = "flukes"
    fold: int = 0
    seed: int = 0
    settings: tuple[str, ...] = ()
    """Fields of the method as key=value."""
    device: str = "auto"
    preset: str = ""
    """The preset whose fields are among the settings, or are to be; empty for none."""
    tuning: Mapping[str, Any] = field(default_factory=dict)
    """How the settings were tuned, for the record; with its `budget` and the `settings` it chose."""
    devices: int = 1
    """How many processes learn together, each on a device of its own."""

    @property
    def tuning_budget(self) -> str:
        """What tuning might spend; empty where nothing was tuned."""
        return str(self.tuning["budget"]) if self.tuning else ""


@dataclass(frozen=True)
class Member:
    """Which of the processes of a run on several devices this one is."""

    rank: int
    """From 0: the first keeps the record."""
    size: int
    meeting: Path
    """The file by which they meet."""


def membership() -> Member | None:
    """Which process of a run on several devices this one is, or None; what it starts is none of them."""
    rank, _, rest = os.environ.pop(MEMBER, "").partition("/")
    size, _, meeting = rest.partition("/")
    return Member(int(rank), int(size), Path(meeting)) if rank else None


def run(
    request: RunRequest,
    workspace: Workspace,
    progress: Progress = SILENT,
    *,
    force: bool = False,
    member: Member | None = None,
) -> RunRecord:
    """The record of the run; one that is finished already is read, not repeated, unless force.

    One that was stopped goes on from the last epochs that were kept, to the same numbers; force begins anew.
    One that another process is at is waited for. The first member of a run on several devices calls it; the
    others `assist`.

    Raises WhalebenchError for a request that cannot be met; then no run is left behind.
    """
    request = resolved(request, workspace, progress)
    if not force and (known := _noted(request, workspace, progress)):
        return known
    from whalebench.benchmarks.core.checkpoint import CheckpointStore
    from whalebench.benchmarks.running.harness import RunHarness
    from whalebench.benchmarks.running.outcome import evaluate_parts, write_outcome
    from whalebench.methods.parts.bagging import build_method

    kind = find_method(request.method)
    config = configure(kind, request.settings)
    benchmark = load_benchmark(request.benchmark, workspace, progress, propose=True)
    benchmark.split.parts(request.fold)
    code = code_of(kind, config)
    device = choose_device(request.device)
    folder = workspace.runs / run_name(request, config, benchmark, device.type, code.digest)
    checkpoints = CheckpointStore(workspace.cache / UNFINISHED / folder.name, device)
    with run_lock(workspace, folder.name, lambda: progress.stage("wait")):
        if folder.exists() and not force:
            progress.stage("found")
            checkpoints.discard()  # what a process left that was stopped just before doing so
            _write_note(request, workspace, folder.name, code)
            return read_record(folder)
        reopen = _reopening(benchmark, workspace, progress)
        views = _views_for(config, benchmark, request.fold, reopen)
        if force:
            checkpoints.discard()
        who = _who(folder.name, request, config, benchmark, code)
        with blamed(request.method):
            method = build_method(kind, config)
            missing, sizes = _missing_requirement(method, views), method.sizes()
        looks = _looks_on_disk(workspace, code, device)
        harness = RunHarness(request.seed, device, views, progress, config, checkpoints, looks)
        if missing:
            record = _unfit(missing, who | _facts(request, method, benchmark, views, harness))
            write_run(folder, lambda into: write_record(into, record), force=force)
            return read_record(folder)
        _keep_inner_folds(config, benchmark, request.fold, workspace)
        _admit_starts(config, harness, benchmark, request.fold)
        _refuse_before_learning(folder, method, benchmark, views, harness)
        harness.stage("decode")
        for size in sizes:
            benchmark.store.pixels(size, progress.advance, cores())
        opening = ledger.Opening.of(who, forced=force)
        del benchmark  # the answers to test are nowhere in memory while the method is at work
        submission = _learn(method, views, harness, checkpoints, member)
        ledger.append(workspace, opening)
        benchmark = reopen()
        outcome = evaluate_parts(submission, views, open_fold(benchmark, request.fold), harness)
        progress.stage("write")
        facts = who | _facts(request, method, benchmark, views, harness)
        learned = RunRecord(**facts, **outcome.numbers())
        write_run(
            folder,
            lambda into: write_outcome(into, learned, outcome, harness.curve()),
            force=force,
            kept=KEPT,
        )
        checkpoints.discard()
        _write_note(request, workspace, folder.name, code)
        return read_record(folder)


def assist(request: RunRequest, workspace: Workspace, member: Member) -> None:
    """Learns and scores together with the first member of a run on several devices, and keeps nothing.

    It reads what the first one has prepared, opens no answers, and writes nowhere.
    """
    from whalebench.benchmarks.core.checkpoint import CheckpointStore
    from whalebench.benchmarks.running.harness import RunHarness
    from whalebench.methods.parts.bagging import build_method

    device = choose_device(request.device)
    with _together(member, device):
        request = resolved(request, workspace)
        kind = find_method(request.method)
        config = configure(kind, request.settings)
        benchmark = load_benchmark(request.benchmark, workspace)
        name = run_name(request, config, benchmark, device.type, code_of(kind, config).digest)
        kept = CheckpointStore(workspace.cache / UNFINISHED / name, device, writes=False)
        digests = benchmark.catalog.digest, benchmark.split.digest
        reopen = partial(reopen_benchmark, benchmark.name, workspace, *digests, SILENT)
        views = _views_for(config, benchmark, request.fold, reopen)
        del benchmark
        with blamed(request.method):
            method = build_method(kind, config)
        _learn(method, views, RunHarness(request.seed, device, views, SILENT, config, kept), kept)


@contextmanager
def _together(member: Member | None, device: torch.device) -> Iterator[None]:
    """A block of several processes, which begins when all are there; where one fails, all are ended."""
    if member is None:
        yield
        return
    from whalebench.methods.parts.training.devices import WORLD

    WORLD.join(member.size, member.rank, member.meeting, device)
    yield
    WORLD.leave()


def resolved(
    request: RunRequest, workspace: Workspace, progress: Progress = SILENT, device_type: str = ""
) -> RunRequest:
    """The request with its method by name, and with the fields that its preset chooses among its settings.

    `device_type` is that of the device where the run is for another machine. The same again for the same.
    Raises WhalebenchError for a seed that cannot be, a file that is no method, and a preset that does not
    suit method or machine.
    """
    check_seed(request.seed)
    settings = tuple(_with_weights(setting, workspace) for setting in request.settings)
    request = replace(request, method=name_of(request.method), settings=settings)
    if not request.preset:
        return request
    from whalebench.benchmarks.presets import preset_settings

    catalog, method = load_catalog(request.benchmark, workspace, progress), find_method(request.method)
    device = device_type or choose_device(request.device).type
    settings = preset_settings(request.preset, method, catalog, device, request.settings)
    return replace(request, settings=settings)


def _with_weights(setting: str, workspace: Workspace) -> str:
    """The setting; where something in it starts from a run by name, with the path of what that learned."""

    def weights(found: re.Match[str]) -> str:
        if Path(found[1]).name == WEIGHTS:
            return found[0]
        return f"start_from={verified(find_run(found[1], workspace) / WEIGHTS)}"

    return START.sub(weights, setting)


def _by_name(value: Any) -> Any:
    """Settings, or a configuration, with the name of a run where the path of what it learned stands."""
    if isinstance(value, list):
        return [_by_name(each) for each in value]
    if isinstance(value, dict):
        said = {name: _by_name(each) for name, each in value.items()}
        return said | ({"start_from": _run_of(said["start_from"])} if "start_from" in said else {})
    return (
        START.sub(lambda found: f"start_from={_run_of(found[1])}", value) if isinstance(value, str) else value
    )


def _run_of(weights: str) -> str:
    """The name of the run whose weights are at the path; of another text itself."""
    return Path(weights).parent.name if Path(weights).name == WEIGHTS else weights


def goes_on(kept: Iterable[Path]) -> str:
    """What a command does when it is given again, by the files of trainings that are kept."""
    return "goes on from its last checkpoint" if any(kept) else "had kept nothing yet, and begins anew"


def command_of(request: RunRequest) -> str:
    """The command that asks for the run, as typed."""
    words = [
        "whalebench",
        "run",
        str(file_of(request.method) or request.method),
        "--benchmark",
        request.benchmark,
    ]
    words += ["--fold", str(request.fold), "--seed", str(request.seed), "--device", request.device]
    words += ["--devices", str(request.devices)] if request.devices > 1 else []
    return shlex.join([*words, *(f"--set={setting}" for setting in request.settings)])


def plan_run(request: RunRequest, workspace: Workspace, progress: Progress = SILENT) -> dict[str, Any]:
    """What a run would be, as JSON says it: its settings, preset resolved, and the command that gives them.

    Nothing is started, and no split made. `estimated_seconds` is None where no run here tells the speed.
    Raises WhalebenchError for a request that cannot be met, as far as that is known without the split.
    """
    from whalebench.benchmarks.presets import estimated_seconds

    request = resolved(request, workspace, progress)
    config = configure(find_method(request.method), request.settings).model_dump(mode="json")
    catalog = load_catalog(request.benchmark, workspace, progress)
    records = read_runs(workspace.runs).records
    return {
        **{name: getattr(request, name) for name in ("method", "benchmark", "fold", "seed", "device")},
        **{"preset": request.preset, "settings": list(request.settings), "config": config},
        "command": command_of(request),
        "estimated_seconds": estimated_seconds(records, request.method, config, catalog),
    }


@dataclass(frozen=True)
class _Note:
    """Which finished run answers a request: a note in the cache, so that it is found without torch.

    It holds as long as all that the run's name is made of is as it was, the code, catalog and split byte for
    byte. Where it does not, the name is made anew.
    """

    run: str
    files: tuple[str, ...]
    """Of its code, and of its benchmark, which was verified when the note was written."""
    content: str
    """Digest of their bytes."""


def _noted(request: RunRequest, workspace: Workspace, progress: Progress) -> RunRecord | None:
    """The record of the run that a note says answers the request; the photos are verified as always."""
    try:
        said = parse_json(_note_file(request, workspace).read_bytes())
        if differs_from_digest(said):
            return None
        note = _Note(**{name: value for name, value in said.items() if name != "digest"})
        is_other = _content(note.files) != note.content
        folder, begun = workspace.runs / note.run, workspace.cache / UNFINISHED / note.run
        if is_other or not folder.exists() or begun.exists():
            return None
        progress.stage("verify")
        verify_kept_photos(_catalog_of(request, workspace))
    except (OSError, ValueError, TypeError, AttributeError, WhalebenchError):
        return None  # no note, or one that cannot be read; what is wrong with photos is told who loads them
    progress.stage("found")
    return read_record(folder)


def _catalog_of(request: RunRequest, workspace: Workspace) -> Path:
    return workspace.benchmarks / photos_name(request.benchmark)


def _write_note(request: RunRequest, workspace: Workspace, run: str, code: Code) -> None:
    """Writes down that the run answers the request."""
    split, folder = split_stem(request.benchmark, workspace), _catalog_of(request, workspace)
    catalog = [folder / "catalog.json", folder / "catalog.parquet"]
    files = tuple(map(str, (*code.files, *catalog, f"{split}.json", f"{split}.csv")))
    note = _Note(run, files, _content(files))
    atomic_text(_note_file(request, workspace), json.dumps(with_digest(vars(note))))


def _content(files: Sequence[str]) -> str:
    return digest_text("\n".join(digest_file(Path(file)) for file in files))


def _note_file(request: RunRequest, workspace: Workspace) -> Path:
    """The note's place: another one for whatever, besides code and benchmark, may lead to another run."""
    words = {word for setting in request.settings for word in re.split("[=,:]", setting)}
    files = {word: take_stamp(Path(word)) for word in sorted(words) if Path(word).is_file()}  # as weights are
    asked = {name: value for name, value in asdict(request).items() if (name, value) != ("devices", 1)}
    everything = [__version__, asked, declared_class(request.method), accelerator_signs(), files]
    return workspace.cache / NOTES / f"{digest_text(json.dumps(everything, sort_keys=True))[:24]}.json"


def _views_for(
    config: MethodConfig, benchmark: Benchmark, fold: int, reopen: Callable[[], Benchmark]
) -> Views:
    """What a method so configured may see of the fold."""
    oracle, viewpoints = config.sees_annotations(), config.sees_viewpoints()
    return fold_views(benchmark, fold, oracle=oracle, viewpoints=viewpoints, reopen=reopen)


def _keep_inner_folds(config: MethodConfig, benchmark: Benchmark, fold: int, workspace: Workspace) -> None:
    """Inner folds that the method, a part or one within is bagged over stand beside the split from now on.

    Those of what one of them leaves are not kept, as they are made again of it.
    """
    for count, *nested in sorted(config.inner_folds()):
        if nested:
            check_nested(benchmark.split, benchmark.catalog, fold, (count, *nested))
            continue
        inner = propose_inner_folds(benchmark.split, benchmark.catalog, fold, count)
        photos, _, split = benchmark.name.partition(AT)
        keep_inner_folds(inner, workspace.benchmarks / photos / f"split{AT * bool(split)}{split}")


def _missing_requirement(method: Pipeline, views: Views) -> str:
    """What the fold lacks that the method cannot do without; empty where it fits.

    A disjoint fold lacks individuals that train and test share: who has no embeddings can name none of them,
    and who learns from test photos would take them for others.
    """
    if views.gallery is not None and method.transductive:
        return f"individual of test in train, for which {method.name} takes its photos"
    if views.gallery is not None and not method.embeds:
        return f"individual of test in train, and {method.name} embeds no photos to compare with its gallery"
    return method.missing_requirement(views.train, views.test)


def _refuse_before_learning(
    folder: Path, method: Pipeline, benchmark: Benchmark, views: Views, harness: RunHarness
) -> None:
    """Raises RunFailedError for what would make hours of training worth nothing."""
    harness.refuse_shared(CALIBRATION, views.valid)
    _refuse_learned_test(benchmark, views)
    _refuse_little_room(folder, method, benchmark, views)


def _admit_starts(config: MethodConfig, harness: RunHarness, benchmark: Benchmark, fold: int) -> None:
    """What the runs learned from that it starts from is part of its lineage, and is of train.

    Raises RunFailedError for a run that learned from other photos, or was chosen by photos of test.
    """
    from whalebench.benchmarks.running.restored import read_weights
    from whalebench.methods.parts.networks.weights import starting_runs

    for start in map(Path, starting_runs(config)):
        lineage = read_weights(start.parent)[1]
        chosen_by = set(lineage.pop(CALIBRATION, ()))
        learned_from = {digest for digests in lineage.values() for digest in digests}
        harness.started(start.parent.name, learned_from, chosen_by, contents(benchmark, fold))


def _pretraining(config: MethodConfig, benchmark: Benchmark) -> dict[str, Any]:
    """What is known of published weights that it starts from, or that a run does which it starts from."""
    from whalebench.methods.parts.networks.weights import pretraining, starting_runs

    own = pretraining(config, photos_name(benchmark.name), benchmark.dataset)
    starts = [read_record(Path(start).parent) for start in starting_runs(config)]
    return {name: known for start in starts for name, known in start.pretraining.items()} | own


def _refuse_learned_test(benchmark: Benchmark, views: Views) -> None:
    """Raises RunFailedError for a split that has test photos in train; one made today has none."""
    if shared := set(views.train.digests) & set(views.test.digests):
        raise RunFailedError(
            f"{len(shared)} test photo(s) of {benchmark.name} are in train, too, so scores would say who "
            f"learned them by heart: remove split.csv and split.json beside its catalog, then make both anew "
            f"with `whalebench split make {benchmark.name} --protocol published --duplicates drop`."
        )


def _refuse_little_room(folder: Path, method: Pipeline, benchmark: Benchmark, views: Views) -> None:
    """Raises RunFailedError where memory has no room for scores, or the disk none for them and the photos.

    A method has two more of the larger part while it mixes scores; they are judged in blocks. What networks
    take is asked for when they are there, before each training.
    """
    parts, identities = [len(views.valid), len(views.test)], len(views.train.identities)
    if method.config.bags > 1:
        parts.append(len(views.train))  # whose out-of-fold scores are kept
    what = f"Scoring {sum(parts):,} photos by {identities:,} individuals"
    remedy = "split with fewer photos in valid and test, or take a machine with more"
    refuse_small_memory(4 * identities * (sum(parts) + 2 * max(parts)), what, remedy)
    photos = sum(benchmark.store.undecoded(size) for size in method.sizes())
    scores = sum(stored_bytes(part, identities) for part in parts)
    refuse_full_disk(benchmark.store.cache, photos + scores, f"The run {folder.name}")


def _learn(
    method: Pipeline,
    views: Views,
    harness: RunHarness,
    checkpoints: CheckpointStore,
    member: Member | None = None,
) -> Submission:
    """What the method hands in after it has learned; its curve is kept where that goes wrong."""
    harness.seed_everything()
    try:
        with _together(member, harness.device), blamed(method.name):
            return _learn_and_ask(method, views, harness)
    except KeyboardInterrupt as pressed:
        trainings = checkpoints.folder.glob(TRAININGS) if checkpoints.folder else ()
        raise KeyboardInterrupt(f"The same command {goes_on(trainings)}.") from pressed
    except RunFailedError as error:
        from whalebench.benchmarks.running.outcome import curve_text

        curve = harness.curve()
        kept = checkpoints.write_note("curve.csv", curve_text(curve)) if len(curve) else None
        if kept is None:
            raise
        raise RunFailedError(f"{error} The epochs up to there are kept in {kept}.") from error


def _learn_and_ask(method: Pipeline, views: Views, harness: RunHarness) -> Submission:
    """What the method hands in; RunFailedError where the memory of its device is too small."""
    import torch

    from whalebench.benchmarks.running.outcome import ask

    try:
        harness.stage("learn")
        harness.fit(method)
        harness.stage("score")
        return ask(method, views, harness)
    except torch.OutOfMemoryError as error:
        raise RunFailedError(
            f"the memory of {harness.device} is too small for {method.name} as it is set: lower batch_size."
        ) from error


def code_of(method: type[Method], config: MethodConfig) -> Code:
    """The code that a run's numbers come from: the method's as it is configured, and whalebench's."""
    return read_code([__name__, *modules_of(method, config)])


def run_name(
    request: RunRequest, config: MethodConfig, benchmark: Benchmark, device: str, code_digest: str
) -> str:
    """The run's folder: readable, and another one whenever anything that determines the numbers is."""
    from whalebench.methods.parts.networks.weights import weight_files

    everything = [
        __version__,
        code_digest,
        request.method,
        _by_name(config.model_dump(mode="json")),
        request.tuning_budget,
        weight_files(config),
        benchmark.catalog.digest,
        benchmark.split.digest,
        request.fold,
        request.seed,
        device,
        *([request.devices] if request.devices > 1 else []),  # they round otherwise
    ]
    mark = digest_text(json.dumps(everything, sort_keys=True))[:8]
    return f"{request.method}-{benchmark.name}-fold{request.fold}-seed{request.seed}-{mark}"


def _who(
    run: str, request: RunRequest, config: MethodConfig, benchmark: Benchmark, code: Code
) -> dict[str, Any]:
    """What a record says of which run it is, known before anything is learned."""
    return {
        "run": run,
        "method": request.method,
        "method_file": str(file_of(request.method) or ""),
        "config": _by_name(config.model_dump(mode="json")),
        "settings": _by_name(list(request.settings)),
        "preset": request.preset,
        "benchmark": benchmark.name,
        "catalog_digest": benchmark.catalog.digest,
        "split_digest": benchmark.split.digest,
        "twin_of": benchmark.split.twin_of,
        "fold": request.fold,
        "seed": request.seed,
        "code_digest": code.digest,
    }


def _reopening(benchmark: Benchmark, workspace: Workspace, progress: Progress) -> Callable[[], Benchmark]:
    """What reads the same benchmark again; it holds nothing of it."""
    digests = benchmark.catalog.digest, benchmark.split.digest
    return partial(reopen_benchmark, benchmark.name, workspace, *digests, progress)


def _looks_on_disk(workspace: Workspace, code: Code, device: torch.device) -> LooksOnDisk:
    """What was made of photos by networks that never learn, with all that a bit of it may depend on."""
    from whalebench.methods.parts.looks import LooksOnDisk

    machine = {name: value for name, value in hardware(str(device)).items() if name != "accelerator_peak_mb"}
    computed_by = {"code": code.digest, "libraries": versions(), "machine": machine}
    return LooksOnDisk(workspace.cache / EMBEDDED, computed_by)


def _unfit(missing: str, facts: dict[str, Any]) -> RunRecord:
    """The record of a method that the benchmark does not fit, because of what is missing there."""
    nothing: dict[str, Any] = dict.fromkeys(("metrics", "valid_metrics"), dict.fromkeys(METRIC_KEYS))
    nothing |= {"usage": None, "track": "nothing learned", "cmc": []}
    return RunRecord(**facts | nothing, unfit=f"{facts['benchmark']} has no {missing}")


def _facts(
    request: RunRequest, method: Pipeline, benchmark: Benchmark, views: Views, harness: RunHarness
) -> dict[str, Any]:
    """Everything a record says besides which run it is and how good."""
    from whalebench.methods.parts.recipe import set_by_hand

    opened = open_fold(benchmark, request.fold)
    of_share = new_share_warnings(opened.answers["valid"], method.config)
    tuned = {setting.partition("=")[0] for setting in request.tuning.get("settings", ())}
    by_hand = {name: value for name, value in set_by_hand(method.config).items() if name not in tuned}
    usage, counts = harness.usage.usage(by_hand, request.tuning_budget), opened.counts(views)
    if spared := harness.usage.photos_spared:
        counts |= {"looks_from_cache": spared}
    return {
        "track": track_words([usage], [counts["train_known_photos"]]),
        "usage": usage,
        "oracle": views.oracle,
        "transductive": method.transductive,
        "pretraining": _pretraining(method.config, benchmark),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": versions(),
        "hardware": hardware(str(harness.device))
        | ({"devices": request.devices} if request.devices > 1 else {}),
        "seconds": harness.seconds(),
        "photos_per_second": harness.photos_per_second(),
        "peak_memory_mb": peak_memory_mb(),
        "counts": counts,
        "chosen": harness.chosen,
        "lineage": {
            part: {"photos": len(digests), "digest": digest_text("\n".join(digests))}
            for part, digests in opened.lineage(harness.lineage).items()
        },
        "constant_answer": constant_answer(
            _photos_by_individual(views, opened), opened.answers["valid"].truth
        ),
        "warnings": [
            *benchmark.warnings,
            *opened.warnings(),
            *of_share,
            *harness.warnings,
        ],
        "tuning": dict(request.tuning),
    }


def _photos_by_individual(views: Views, opened: OpenFold) -> Counter[str]:
    """How many photos each individual has where test is compared: in train, or a gallery of its own."""
    if opened.gallery:
        return Counter(opened.gallery)
    return Counter(views.train.identities[label] for label in views.train.known().labels.tolist())


def check_seed(seed: int) -> None:
    """Raises WhalebenchError for a seed that some generator would not take."""
    if not 0 <= seed < 2**31:
        raise WhalebenchError(f"seed {seed} cannot be: give a whole number from 0 to {2**31 - 1}.")
