"""The front door: each command parses, calls and prints; the work is done in the rooms.

Everything heavy is imported inside the commands, so that `whalebench --help` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from whalebench import MissingError, RunFailedError, WhalebenchError, __version__
from whalebench.benchmarks.ensembles.options import Rule

if TYPE_CHECKING:
    from whalebench.benchmarks.core.progress import Progress
    from whalebench.benchmarks.core.workspace import Workspace

HELP = "Which approach identifies individual animals best, by how much, and how sure that is."

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
data = typer.Typer(help="Bring photos in, and look at what is there.", no_args_is_help=True)
split = typer.Typer(help="Frozen folds: made once, verified always.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(split, name="split")

out, err = Console(), Console(stderr=True)

WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "--workspace", envvar="WHALEBENCH_WORKSPACE", help="Folder of benchmarks, runs, reports, cache."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
BenchmarkOption = Annotated[str, typer.Option(help="What to measure on; `whalebench benchmarks` lists them.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
NameArgument = Annotated[str, typer.Argument(help="A benchmark; `whalebench benchmarks` lists them.")]
HERE = Path("workspace")


@app.callback(invoke_without_command=True)
def start(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Which approach identifies individual animals best, by how much, and how sure that is."""
    if version:
        out.print(f"whalebench {__version__}", highlight=False)
        raise typer.Exit


@app.command()
def run(
    method: Annotated[str, typer.Argument(help="Who competes; `whalebench methods` lists them.")],
    benchmark: BenchmarkOption = "flukes",
    fold: Annotated[int, typer.Option(help="The fold to test on.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A field of the method as key=value; repeat for more. See `whalebench methods METHOD`.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    force: Annotated[bool, typer.Option("--force", help="Repeat a run that is finished.")] = False,
    tell: Annotated[bool, typer.Option("--progress", hidden=True)] = False,  # of use to a sweep
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Learn on one fold, score its test photos, and keep the record."""
    from whalebench.benchmarks.running import runner
    from whalebench.reports import run_report as summary

    request = runner.RunRequest(method, benchmark, fold, seed, tuple(settings or ()), device)
    place = _open(workspace)
    with _progress(as_json and not tell) as progress:
        record = runner.run(request, place, progress, force=force)
    _show(record.model_dump(mode="json"), summary.run_summary(record, place.runs), as_json)


@app.command()
def report(
    benchmark: Annotated[str | None, typer.Option(help="Only this benchmark.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page to look at.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Also write the rows as CSV.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Also write a picture of the tables.")] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Print the leaderboard, and write it as Markdown, CSV and JSON into the workspace."""
    from whalebench.reports import leaderboard, terminal, writers

    place = _open(workspace)
    board = leaderboard.leaderboard(place.runs, benchmark)
    written = writers.write_reports(board, place.reports, html=html, csv_file=csv, svg=svg)
    _show(writers.to_rows(board), terminal.render(board), as_json)
    if not as_json:
        out.print("Written: " + ", ".join(map(str, written)), style="dim", soft_wrap=True)


@app.command()
def explain(
    run: Annotated[str, typer.Argument(help="The name of a finished run, or its folder.")],
    photos: Annotated[int, typer.Option(help="How many test photos the picture shows.")] = 8,
    image: Annotated[
        list[str] | None, typer.Option(help="A test photo to show instead; repeat for more.")
    ] = None,
    box: Annotated[float, typer.Option(help="Side of the sliding box, as a share of the photo's.")] = 0.15,
    picture: Annotated[
        Path | None, typer.Option("--out", help="Where to draw the picture, .png or .jpg.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Repeat a diagnosis that is there.")] = False,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Show where a run looks, and what is left of its score without background, without animal, mirrored."""
    from whalebench.benchmarks.explaining import explain as explaining
    from whalebench.reports.run_report import explain_report

    place = _open(workspace)
    with _progress(as_json) as progress:
        found = explaining.explain(
            run,
            place,
            progress,
            photos=photos,
            images=image or (),
            box=box,
            out=picture,
            force=force,
        )
    shown = explain_report(found.run, found.diagnosis, found.shown, str(found.picture))
    _show(found.document(), shown, as_json)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Show the fields of one method.")] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Write the page of all methods and all fields to this file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the methods, or the fields of one."""
    from whalebench.benchmarks import overview
    from whalebench.reports.listing import table_of

    if markdown:
        _write_guide(markdown)
        return
    rows = overview.field_rows(name) if name else overview.method_rows()
    _show(rows, table_of(rows, f"{name}: fields for --set" if name else "Methods"), as_json)


@app.command()
def check(
    method: Annotated[str, typer.Argument(help="A method; `whalebench methods` lists them.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of the method as key=value; wins over what makes it quick."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Try whether a method keeps what every method promises, on a few drawn photos; 1 if it does not."""
    from whalebench.benchmarks.conformance.suite import check_method
    from whalebench.reports.listing import table_of

    with _progress(as_json) as progress:
        found = check_method(method, tuple(settings or ()), progress)
    document = found.document()
    _show(document, table_of(document["checks"], f"{method} is checked"), as_json)
    if not found.passed:
        raise typer.Exit(1)


@app.command()
def benchmarks(
    name: Annotated[str | None, typer.Argument(help="Show one benchmark.")] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Draw a contact sheet to this .png or .jpg file.")
    ] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """List the benchmarks, or show one; `flukes` is drawn when it is first shown."""
    from whalebench.benchmarks import overview
    from whalebench.reports.listing import table_of

    if sheet and not name:
        raise WhalebenchError(
            "--sheet needs the name of a benchmark: `whalebench benchmarks flukes --sheet FILE`."
        )
    if name:
        return _show_catalog(name, workspace, as_json, sheet)
    rows = overview.benchmark_rows(_open(workspace))
    return _show(rows, table_of(rows, "Benchmarks"), as_json)


@data.command("import")
def data_import(
    layout: Annotated[
        str, typer.Argument(help="How the table is laid out: csv (also reads .tsv and .parquet).")
    ],
    path: Annotated[Path, typer.Argument(help="The table; photo paths are relative to its folder.")],
    name: Annotated[str, typer.Option("--name", help="What to call the benchmark.")],
    missing: Annotated[
        Literal["refuse", "quarantine"],
        typer.Option(help="Absent photos: refuse the table, or quarantine them."),
    ] = "refuse",
    dataset: Annotated[
        str,
        typer.Option(help="The public set they are, as NOAARightWhale: weights trained on it are marked."),
    ] = "",
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Check a table and every photo in it, and make it a benchmark."""
    from whalebench.benchmarks import overview
    from whalebench.benchmarks.importing import importer
    from whalebench.reports.listing import import_report

    if layout != "csv":
        raise WhalebenchError(
            f"There is no layout '{layout}': there is csv, a table with the catalog's columns."
        )
    place = _open(workspace)
    with _progress(as_json) as progress:
        progress.stage("inspect")
        result = importer.import_csv(
            path, name, place, missing=missing, dataset=dataset, progress=progress.advance
        )
    facts = overview.catalog_facts(result.catalog)
    left_out = [photo._asdict() for photo in result.quarantined]
    document = facts | {"quarantined": left_out, "notes": list(result.notes)}
    _show(document, import_report(facts, left_out, list(result.notes)), as_json)


@data.command("show")
def data_show(name: NameArgument, as_json: JsonOption = False, workspace: WorkspaceOption = HERE) -> None:
    """Show what a benchmark's catalog holds."""
    _show_catalog(name, workspace, as_json)


@data.command("check")
def data_check(name: NameArgument, as_json: JsonOption = False, workspace: WorkspaceOption = HERE) -> None:
    """Verify that catalog, photos and split are still what they were, and list the quarantine."""
    from whalebench.benchmarks import registry
    from whalebench.benchmarks.importing import importer
    from whalebench.reports.listing import check_report

    place = _open(workspace)
    with _progress(as_json) as progress:
        benchmark = registry.load_benchmark(name, place, progress)
    left_out = [photo._asdict() for photo in importer.read_quarantine(place.benchmarks / name)]
    document = {
        "name": name,
        "photos": len(benchmark.catalog.table),
        "catalog_digest": benchmark.catalog.digest,
        "split_digest": benchmark.split.digest,
        "quarantined": left_out,
    }
    _show(document, check_report(document), as_json)


@split.command("make")
def split_make(
    name: NameArgument,
    protocol: Annotated[str, typer.Option(help="auto, stratified-encounters or published.")] = "auto",
    folds: Annotated[int | None, typer.Option(help="How many folds; 5 unless said otherwise.")] = None,
    singles: Annotated[
        str, typer.Option(help="Individuals met once: train (always learn), or new (dealt to folds).")
    ] = "train",
    valid_share: Annotated[
        float, typer.Option(help="Share of the photos outside the test that are valid.")
    ] = 0.12,
    seed: Annotated[int, typer.Option(help="Seed of the shuffling.")] = 0,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Make the folds of an imported benchmark, once."""
    from whalebench.benchmarks import registry

    made = registry.make_split(
        name,
        _open(workspace),
        protocol=protocol,
        folds=folds,
        singles=singles,
        valid_share=valid_share,
        seed=seed,
    )
    _show_split(name, made, as_json)


@split.command("show")
def split_show(name: NameArgument, as_json: JsonOption = False, workspace: WorkspaceOption = HERE) -> None:
    """Show the folds of a benchmark."""
    from whalebench.benchmarks import registry

    with _progress(as_json) as progress:
        benchmark = registry.load_benchmark(name, _open(workspace), progress)
    _show_split(name, benchmark.split, as_json)


@split.command("verify")
def split_verify(name: NameArgument, as_json: JsonOption = False, workspace: WorkspaceOption = HERE) -> None:
    """Verify that the folds are those that were made, for the catalog they were made for."""
    from whalebench.benchmarks import registry

    with _progress(as_json) as progress:
        benchmark = registry.load_benchmark(name, _open(workspace), progress)
    document = {
        "name": name,
        "split_digest": benchmark.split.digest,
        "catalog_digest": benchmark.catalog.digest,
    }
    _show(document, f"The split of {name} is as it was made: {benchmark.split.digest[:16]}.", as_json)


@app.command()
def doctor(as_json: JsonOption = False, workspace: WorkspaceOption = HERE) -> None:
    """Show what this machine has, and say what is missing."""
    from whalebench.benchmarks import overview
    from whalebench.reports.listing import table_of

    rows = overview.doctor_rows(_open(workspace))
    _show(rows, table_of(rows, "This machine"), as_json)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


@app.command()
def sweep(
    methods: Annotated[
        list[str] | None, typer.Argument(help="Who competes; `all` is every method, recipes at scale=small.")
    ] = None,
    folds: Annotated[
        str | None, typer.Option(help="The folds to test on, as 0-4 or 0,2; 0 if unsaid.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="The seeds, as 0-2; 0 if unsaid.")] = None,
    benchmark: Annotated[str | None, typer.Option(help="What to measure on; flukes if unsaid.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A field of every method as key=value; repeat for more.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="A TOML file that says all this; options given beside it win.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Runs at a time; one for every two cores, or accelerator, if unsaid.")
    ] = None,
    device: DeviceOption = "auto",
    retry: Annotated[bool, typer.Option("--retry", help="Try again what has failed before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and start nothing.")] = False,
    svg: Annotated[Path | None, typer.Option(help="Also write a picture of the leaderboard.")] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Run methods on folds and seeds; finished runs are found, and the same command goes on after Ctrl-C."""
    from whalebench.benchmarks.sweeping.plan import make_plan
    from whalebench.benchmarks.sweeping.sweep import Sweep, prepare
    from whalebench.reports import sweep_report
    from whalebench.reports.progress import watch_sweep
    from whalebench.reports.terminal import render_svg

    wishes = {"benchmark": benchmark, "folds": folds, "seeds": seeds}
    planned = make_plan(methods or (), plan, settings=tuple(settings or ()), **wishes)
    place = _open(workspace)
    with _progress(as_json) as progress:
        cells, shares = prepare(planned, device, jobs, place, progress)
    with watch_sweep(err, quiet=as_json) as watcher:
        sweeping = Sweep(cells, shares, place, watcher)
        if not dry_run:
            sweeping.run(retry=retry)
    news = sweeping.news()
    if dry_run:
        return _show(sweeping.document(), sweep_report.plan_report(news, len(shares)), as_json)
    board = sweep_report.board_of(news, place.runs)
    more = {"summary": sweep_report.summary_rows(board), "rows": sweep_report.board_rows(board)}
    _show(sweeping.document() | more, sweep_report.sweep_report(news, board, sweeping.seconds), as_json)
    if svg and board:
        render_svg(board, svg, folds=False)
    if sweeping.stopped:
        err.print("Stopped. The same command goes on from here.", style="yellow")
        raise typer.Exit(130)
    if sweeping.failed():
        raise typer.Exit(1)
    return None


@app.command()
def tune(
    method: Annotated[str, typer.Argument(help="What is tuned; `whalebench methods NAME` shows where.")],
    benchmark: BenchmarkOption = "flukes",
    fold: Annotated[int, typer.Option(help="The fold; its valid photos judge the trials.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of every random draw, the sampler's, too.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field as key=value that is not tuned; repeat for more."),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="How many trials, the defaults among them; 20 if nothing is said.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Hours of work as 2h or 90m, or photos learned from as 500k.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="A database's URL or journal:FILE; a file in the workspace if unsaid.")
    ] = None,
    study: Annotated[str | None, typer.Option(help="Its name; made of all that is asked if unsaid.")] = None,
    jobs: Annotated[int, typer.Option(help="Trials at a time on this machine.")] = 1,
    device: DeviceOption = "auto",
    worker: Annotated[int | None, typer.Option(hidden=True)] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Look for better settings by their score on valid, then score the best and the defaults on test once."""
    from whalebench.benchmarks.running.runner import RunRequest
    from whalebench.benchmarks.tuning import tuner
    from whalebench.benchmarks.tuning.space import read_budget
    from whalebench.reports import figures as tuning_picture
    from whalebench.reports import tuning

    asked = RunRequest(method, benchmark, fold, seed, tuple(settings or ()), device)
    request = tuner.TuneRequest(asked, read_budget(trials, budget), storage, study, jobs)
    place = _open(workspace)
    if worker is not None:
        return tuner.join(request, worker, place)
    try:
        with _progress(as_json) as progress:
            found = tuner.tune(request, place, progress)
    except tuner.Interrupted as stopped:
        err.print(f"Stopped. {stopped}", style="yellow", highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
    document = tuning.with_scores(found.document(), place.runs)
    tuning_picture.write_picture(document, found.picture)
    return _show(document, tuning.tuning_report(document), as_json)


@app.command()
def ensemble(
    runs: Annotated[
        list[str], typer.Argument(help="Names of finished runs, or their folders; two, or one with --then.")
    ],
    rule: Annotated[
        Rule,
        typer.Option(help="How they become one: see docs/ensembles.md."),
    ] = "mean",
    weights: Annotated[
        str | None,
        typer.Option(help="One a run, as 0.5,0.5; mean and product choose their own on valid if unsaid."),
    ] = None,
    pca: Annotated[
        int | None, typer.Option(help="Principal components of the features, for rules on features.")
    ] = None,
    local_matches: Annotated[
        bool, typer.Option("--local-matches", help="Key points that pairs share, for pairs; extra sift.")
    ] = False,
    hours: Annotated[
        float | None, typer.Option(help="Longest that local matches may be estimated to take; 2 if unsaid.")
    ] = None,
    then: Annotated[
        list[str] | None,
        typer.Option(
            help="A step taken with the scores: reciprocal, expansion, duplicates, sizes, bursts, balance; "
            "repeat for more, in this order."
        ),
    ] = None,
    duplicates: Annotated[
        Path | None, typer.Option(help="CSV of individuals that are one animal, for --then duplicates.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Repeat an ensemble that is finished.")] = False,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Combine finished runs of one fold, from their stored scores, and keep what comes of it as a run."""
    from whalebench.benchmarks.ensembles import ensemble as ensembling
    from whalebench.benchmarks.ensembles.ensemble import EnsembleRequest
    from whalebench.benchmarks.ensembles.heuristics import read_groups
    from whalebench.benchmarks.ensembles.options import Options
    from whalebench.reports.run_report import ensemble_document, ensemble_report

    groups = read_groups(duplicates) if duplicates else ()
    options = Options(pca, local_matches, hours)
    request = EnsembleRequest(tuple(runs), rule, weights, options, tuple(then or ()), groups)
    place = _open(workspace)
    with _progress(as_json) as progress:
        made = ensembling.ensemble(request, place, progress, force=force)
    document = ensemble_document(made.record, made.folder, made.members)
    _show(document, ensemble_report(document, str(made.folder)), as_json)


def main() -> None:
    """Runs the command line; errors are one sentence and an exit code: 1 failed, 2 wrong use or bad input."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments, prog_name="whalebench")
    except WhalebenchError as error:
        what = "Missing" if isinstance(error, MissingError) else "Error"
        _fail(str(error), 1 if isinstance(error, RunFailedError) else 2, debug, what)
    except Exception as error:  # (the last resort: a sentence instead of a traceback)
        _fail(f"{type(error).__name__}: {error}. Add --debug to see where, and please report it.", 1, debug)


def _fail(sentence: str, code: int, debug: bool, what: str = "Error") -> None:
    if debug:
        traceback.print_exc()
    err.print(f"{what}: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise SystemExit(code)


def _open(workspace: Path) -> Workspace:
    from whalebench.benchmarks.core.workspace import Workspace

    return Workspace.open(workspace)


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    """Progress on stderr, so that stdout holds results only; nothing at all for --json off a terminal."""
    from whalebench.benchmarks.core.progress import SILENT
    from whalebench.reports.progress import watch

    if quiet and not err.is_terminal:
        yield SILENT
        return
    with watch(err) as progress:
        yield progress


def _show(document: Any, shown: Any, as_json: bool) -> None:
    """Prints the document as JSON, or what is shown of it."""
    if as_json:
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + os.linesep)
    else:
        out.print(shown)


def _write_guide(file: Path) -> None:
    from whalebench.benchmarks.core.workspace import atomic_text
    from whalebench.benchmarks.overview import guide_sections
    from whalebench.reports.guide import methods_page

    atomic_text(file, methods_page(guide_sections()))
    out.print(f"Written: {file}", style="dim", soft_wrap=True)


def _show_catalog(name: str, workspace: Path, as_json: bool, sheet: Path | None = None) -> None:
    from whalebench.benchmarks import overview, registry
    from whalebench.reports.listing import facts_table

    with _progress(as_json) as progress:
        catalog = registry.load_catalog(name, _open(workspace), progress)
    facts = overview.catalog_facts(catalog)
    if sheet:
        from whalebench.benchmarks.sheet import contact_sheet

        contact_sheet(catalog.table, sheet, title=name)
        facts["contact sheet"] = str(sheet)
    _show(facts, facts_table(facts), as_json)


def _show_split(name: str, made: Any, as_json: bool) -> None:
    from whalebench.benchmarks import overview
    from whalebench.reports.listing import split_report

    facts, rows = overview.split_facts(made), overview.split_rows(made)
    _show(
        {"name": name} | facts | {"parts": rows},
        split_report(name, facts, rows, list(made.warnings)),
        as_json,
    )


if __name__ == "__main__":  # as `python -m whalebench.cli`, which a sweep starts
    main()
