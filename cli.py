"""The front door: each command parses, calls and prints; the work is done in the rooms.

Everything heavy is imported inside the commands, so that `whalebench --help` answers at once.
"""

import gc
import sys
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Argument, Option
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from whalebench import WhalebenchError, __version__
from whalebench.benchmarks.core.machine import STORAGE, is_orphan, let_others_work
from whalebench.benchmarks.ensembles.options import Rule
from whalebench.reports import commands, completing, console
from whalebench.reports.commands import (
    HERE,
    RUN,
    JsonOption,
    PhotosOfPage,
    PhotosOption,
    RunArgument,
    WorkspaceOption,
    open_workspace,
)

if TYPE_CHECKING:
    from whalebench.benchmarks.registry import Benchmark
    from whalebench.splits.split import Split


class _Doors(TyperGroup):
    """All commands; one that is interrupted says how it is taken up again."""

    def invoke(self, ctx: Any) -> Any:
        """Calls the command; after Ctrl-C the exit code is 130."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupted:
            console.stopped(str(interrupted) or "Nothing is left half done: give the same command again.")
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Doors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(help="Bring photos in, and look at what is there.", no_args_is_help=True)
split = typer.Typer(help="Frozen folds: made once, verified always.", no_args_is_help=True)
gallery = typer.Typer(help="Let photos join what a run compares with.", no_args_is_help=True)
MEASURE, READ, VERIFY, LOOK = "Measure", "Read what came of it", "Verify and pass on", "Look around"
USE = "Ask it of new photos"
app.add_typer(data, name="data", rich_help_panel=LOOK)
app.add_typer(split, name="split", rich_help_panel=LOOK)
app.add_typer(gallery, name="gallery", rich_help_panel=USE)

BenchmarkOption = Annotated[
    str,
    Option(
        help="What to measure on; `whalebench benchmarks` lists them.", autocompletion=completing.benchmarks
    ),
]
FoldOption = Annotated[int, Option(help="The fold to test on; `tune` chooses by its valid photos.")]
SeedOption = Annotated[int, Option(help="Seed of every random draw.")]
SettingsOption = Annotated[
    list[str] | None,
    Option("--set", help="A field of the method as key=value; repeat for more. `whalebench methods METHOD`."),
]
PresetOption = Annotated[
    str,
    Option(help="Fields that suit the photos: small, pretrained or gpu; what is set wins."),
]
ForceOption = Annotated[bool, Option("--force", help="Repeat what is finished.")]
TimeLimitOption = Annotated[
    str | None, Option(help="End a run after so long, as 30m or 2h; its last checkpoint is kept.")
]
DeviceOption = Annotated[str, Option(help="auto, cpu, cuda, cuda:1, mps.")]
DevicesOption = Annotated[
    int, Option(help="Learn on so many GPUs of this machine together, or in so many processes on its cores.")
]
METHOD = "A method, `whalebench methods` lists them; or the file of one, as ./my_method.py."
MethodArgument = Annotated[str, Argument(help=METHOD, autocompletion=completing.methods)]
NameArgument = Annotated[
    str,
    Argument(help="A benchmark; `whalebench benchmarks` lists them.", autocompletion=completing.benchmarks),
]
PROTOCOL_HELP = (
    "auto, stratified-encounters, published, encounter-grouped, closed, open, disjoint, side-aware or "
    "time-aware."
)
SINGLES_HELP = "Individuals met once: train, or new, dealt to folds; new by default if open or time-aware."
STEPS = (
    "A step after it: reciprocal, expansion (of each also -together), duplicates, sizes, bursts or balance; "
    "repeat for more, in the order typed."
)
VERDICTS = "CSV of verdicts on pairs of photos, as the page of `data audit` gives it."
NEW_PHOTOS = "Photos, folders, or tables with boxes, encounters, viewpoints; see docs/your-photos.md."
By = Literal["photo", "encounter"]
LauncherOption = Annotated[
    Literal["local", "ray", "slurm"], Option(help="Where to work: docs/many-machines.md.")
]
CpusOption = Annotated[int | None, Option(help="Cores, and threads, of each run on a cluster; 2 by default.")]
GpusOption = Annotated[int | None, Option(help="GPUs of each run on a cluster; none by default.")]
MemoryOption = Annotated[str | None, Option(help="Memory of each run on a cluster, as 8GB.")]
SlurmOption = Annotated[
    list[str] | None, Option("--slurm", help="As partition=gpu, time=2h, account=A; repeat for more.")
]
COMPETES = "Who competes, by name or file; `all` is every installed method, recipes at scale=small."
Missing = Literal["refuse", "quarantine"]
Given = Literal["auto", "box", "none"]
Boxes = Literal["corners", "size", "centre"]
Competition = Literal["humpback", "happywhale", "right-whale"]
NewRule = Literal["column", "second"]
BOXES = "What x0, y0, x1, y1 of a table are: corners, left and top with size (COCO), centre with size (YOLO)."


@app.callback(invoke_without_command=True)
def start(
    version: Annotated[bool, Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Which approach identifies individual animals best, by how much, and how sure that is."""
    if version:
        console.out.print(f"whalebench {__version__}", highlight=False)
        raise typer.Exit


@app.command(rich_help_panel=MEASURE)
def run(
    method: MethodArgument,
    benchmark: BenchmarkOption = "flukes",
    fold: FoldOption = 0,
    seed: SeedOption = 0,
    settings: SettingsOption = None,
    preset: PresetOption = "",
    device: DeviceOption = "auto",
    devices: DevicesOption = 1,
    force: ForceOption = False,
    time_limit: TimeLimitOption = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Show what would be run, and start nothing.")] = False,
    tell: Annotated[bool, Option("--progress", hidden=True)] = False,  # of use to a sweep
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Learn on one fold, score its test photos, and keep the record."""
    from whalebench.benchmarks.running import runner

    fields = tuple(settings or ())
    request = runner.RunRequest(method, benchmark, fold, seed, fields, device, preset, devices=devices)
    place = open_workspace(workspace)
    if dry_run:
        from whalebench.reports.tables import plan_report

        with console.progress_shown(quiet=as_json) as progress:
            plan = runner.plan_run(request, place, progress)
        return console.show(plan, plan_report(plan), as_json)
    member = runner.membership()
    if time_limit is not None or (devices != 1 and member is None):
        from whalebench.benchmarks.running import devices as several
        from whalebench.benchmarks.running import workers

        flags = {"--json": as_json, "--progress": tell, "--force": force, "--debug": "--debug" in sys.argv}
        given = [flag for flag, is_given in flags.items() if is_given]
        if time_limit is not None:
            raise typer.Exit(workers.run_limited(request, time_limit, place, given))
        raise typer.Exit(several.run_on_devices(request, place, given))
    if member is not None and member.rank:
        return runner.assist(request, place, member)
    with console.progress_shown(quiet=as_json and not tell) as progress:
        record = runner.run(request, place, progress, force=force, member=member)
    if as_json:
        from whalebench.reports.leaks import leak_warnings, read_told

        console.show_problems(leak_warnings(read_told(place.runs, record), (record.fold,)))
        return console.show(record.model_dump(mode="json"), None, as_json)
    from whalebench.reports.run_report import run_summary

    return console.show(None, run_summary(record, place.runs), as_json)


for read in (commands.report, commands.runs, commands.show):
    app.command(rich_help_panel=READ)(read)
for verify in (commands.rescore, commands.bundle):
    app.command(rich_help_panel=VERIFY)(verify)


@app.command(rich_help_panel=READ)
def compare(
    runs: Annotated[
        list[str] | None,
        Argument(
            help=f"{RUN} Several runs of one method: all of them. Two, or more for a ladder.",
            autocompletion=completing.runs,
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        Option(
            help="A sweep's plan, as right-whale-sea: the ladder of its methods, as they stand.",
            autocompletion=completing.plans,
        ),
    ] = None,
    by: Annotated[
        str | None,
        Option(help="A ladder by map_at_5, the default, top_1, mask_precision, mask_iou or box_iou."),
    ] = None,
    photos: Annotated[
        int | None, Option(help="How many photos on which two disagree most are shown; 10 unless said.")
    ] = None,
    benchmark: Annotated[
        str | None, Option(help="Of a plan, on another benchmark.", autocompletion=completing.benchmarks)
    ] = None,
    folds: Annotated[str | None, Option(help="Of a plan, on other folds, as 0-4 or 0,2.")] = None,
    seeds: Annotated[str | None, Option(help="Of a plan, with other seeds, as 0-2.")] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Say which of two is better, by how much, how sure that is, and on which photos they disagree most.

    Of three or more, in the order of a ladder, say what each gains over the one before it.
    """
    from whalebench.reports import comparing

    named, place = runs or [], open_workspace(workspace, write=False)
    of_plan = {"--benchmark": benchmark, "--folds": folds, "--seeds": seeds}
    typed = {option: value for option, value in of_plan.items() if value is not None}
    if bool(named) == bool(plan) or len(named) == 1:
        raise WhalebenchError(
            "Compare what? Name two runs, or more for a ladder, or give --plan PLAN instead."
        )
    if named and typed:
        option, value = next(iter(typed.items()))
        raise WhalebenchError(f"{option} {value} is for a plan, and runs are named: leave it out.")
    if len(named) == 2 and by is None:
        document = comparing.compare_runs(named[0], named[1], place, 10 if photos is None else photos)
        console.show(document, comparing.comparison_report(document), as_json)
        return
    if photos is not None:
        what = f"the plan {plan}" if plan else f"{len(named)} runs" if by is None else f"--by {by}"
        raise WhalebenchError(
            f"--photos {photos} is for two by MAP@5, not for {what}: leave it out, or name two."
        )
    by = by or "map_at_5"
    if not plan:
        document = comparing.compare_steps(named, place, by)
    else:
        from whalebench.benchmarks.sweeping.plan import make_plan
        from whalebench.benchmarks.sweeping.sweep import finished_runs

        planned = make_plan([], plan, benchmark=benchmark, folds=folds, seeds=seeds)
        found = finished_runs(planned, place)
        document = comparing.compare_found(found, place, by)
        wanted = len(found) * len(planned.folds) * len(planned.seeds)
        absent = wanted - sum(len({(run.fold, run.seed) for run in records}) for records in found.values())
        if absent:
            words = ["whalebench sweep --plan", str(plan), *(f"{name} {typed[name]}" for name in typed)]
            console.show_problems([f"{absent} of {wanted} runs are not there: {' '.join(words)}"])
    console.show(document, comparing.steps_report(document), as_json)


@app.command(rich_help_panel=READ)
def explain(
    run: RunArgument,
    photos: Annotated[int, Option(help="How many test photos the picture shows.")] = 8,
    images: Annotated[list[str] | None, Option("--image", help="A test photo instead; repeat.")] = None,
    box: Annotated[float, Option(help="Side of the sliding box, as a share of the photo's.")] = 0.15,
    picture: Annotated[Path | None, Option("--out", help="Where to draw it, .png or .jpg.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Show where a run looks, and what is left of its score without background, without animal, mirrored."""
    from whalebench.benchmarks.explaining import explain as explaining
    from whalebench.reports.run_report import explain_report

    place = open_workspace(workspace)
    with console.progress_shown(quiet=as_json) as progress:
        made = explaining.explain(
            run, place, progress, photos=photos, images=images or (), box=box, out=picture, force=force
        )
    shown = explain_report(made.run, made.diagnosis, made.shown, str(made.picture))
    console.show(made.document(), shown, as_json)


@app.command(rich_help_panel=USE)
def predict(
    run: RunArgument,
    photos: Annotated[list[Path], Argument(help=NEW_PHOTOS)],
    by: Annotated[By, Option(help="Answer for each photo, or for all of an encounter together.")] = "photo",
    out: Annotated[Path | None, Option(help="Also write the answers, to a .csv or .parquet file.")] = None,
    html: Annotated[Path | None, Option(help="Also write a page to decide on who it is.")] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Say who new photos show: five candidates with probabilities, and the chance that it is somebody new."""
    from whalebench.benchmarks.core.outputs import check_output, write_output
    from whalebench.benchmarks.predicting import predict as predicting
    from whalebench.reports.page.review import review_page
    from whalebench.reports.predictions import predictions_report

    if out:
        predicting.check_table(out)
    if html:
        check_output(html)
    place = open_workspace(workspace)
    with console.progress_shown(quiet=as_json) as progress:
        made = predicting.predict(run, photos, place, progress, by=by, device=device)
        page = review_page(made, place, by=by, progress=progress) if html else ""
    document = made.document()
    console.show(document, predictions_report(document), as_json)
    if out:
        made.write(out)
    if html:
        write_output(html, page)
    if (out or html) and not as_json:
        console.show_written(*filter(None, (out, html)))


@gallery.command("add")
def gallery_add(
    run: RunArgument,
    photos: Annotated[list[Path], Argument(help="Tables of photos that name their individuals.")],
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Let photos of known and of new individuals join a run's gallery, without training, under a new name."""
    from whalebench.benchmarks.predicting.gallery import add_to_gallery
    from whalebench.reports.predictions import gallery_report

    place = open_workspace(workspace)
    with console.progress_shown(quiet=as_json) as progress:
        document = add_to_gallery(run, photos, place, progress).document()
    console.show(document, gallery_report(document), as_json)


@app.command(rich_help_panel=LOOK)
def methods(
    name: Annotated[
        str | None,
        Argument(help="Show the fields of one, or of ./my_method.py.", autocompletion=completing.methods),
    ] = None,
    word: Annotated[str | None, Argument(help="Only fields with it in their name or meaning.")] = None,
    everything: Annotated[bool, Option("--all", help="Every field, not only the first that matter.")] = False,
    markdown: Annotated[Path | None, Option(help="Write the page of all methods to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the methods, or the fields of one; of a recipe also the steps of the system that it repeats."""
    from whalebench.benchmarks import overview
    from whalebench.reports.tables import fields_report, table_of

    if everything and not name:
        raise WhalebenchError("--all needs the name of a method: `whalebench methods METHOD --all`.")
    if markdown:
        from whalebench.benchmarks.core.outputs import write_output

        write_output(markdown, overview.methods_page())
        return console.show_written(markdown)
    if not name:
        rows = overview.method_rows()
        return console.show(rows, table_of(rows, "Methods"), as_json)
    rows = overview.field_rows(name, word or "")
    first = rows if everything or word else overview.first_fields(name, rows)
    ladder = [] if word else overview.ladder_rows(name)
    return console.show(rows, fields_report(*overview.fields_words(name, rows, first), ladder), as_json)


@app.command(rich_help_panel=VERIFY)
def check(method: MethodArgument, settings: SettingsOption = None, as_json: JsonOption = False) -> None:
    """Try whether a method keeps what every method promises, on a few drawn photos; 1 if it does not.

    What is set wins over what makes the method quick.
    """
    from whalebench.benchmarks.conformance.suite import check_method
    from whalebench.reports.tables import table_of

    with console.progress_shown(quiet=as_json) as progress:
        result = check_method(method, tuple(settings or ()), progress)
    document = result.document()
    console.show(document, table_of(document["checks"], f"{method} is checked"), as_json)
    if not result.passed:
        raise typer.Exit(1)


@app.command(rich_help_panel=LOOK)
def benchmarks(
    name: Annotated[
        str | None, Argument(help="Show one benchmark.", autocompletion=completing.benchmarks)
    ] = None,
    sheet: Annotated[Path | None, Option(help="Draw a contact sheet to this .png or .jpg file.")] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """List the benchmarks, or show one; `flukes` is drawn when it is first shown."""
    from whalebench.benchmarks import overview
    from whalebench.reports.tables import table_of

    if sheet and not name:
        raise WhalebenchError(
            "--sheet needs the name of a benchmark: `whalebench benchmarks NAME --sheet FILE`."
        )
    if name:
        return _show_catalog(name, workspace, as_json, sheet)
    rows = overview.benchmark_rows(open_workspace(workspace, write=False))
    return console.show(rows, table_of(rows, "Benchmarks"), as_json)


class _WithLayouts(TyperCommand):
    """A command whose help ends in all layouts; they are imported when it is shown."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Prints the options, then the layouts."""
        from whalebench.benchmarks.importing.layouts.columns import layouts_help

        super().format_help(ctx, formatter)
        typer.echo(layouts_help())


@data.command("import", cls=_WithLayouts)
def data_import(
    layout: Annotated[str, Argument(help="How the photos are kept; all layouts are shown below.")],
    path: Annotated[str, Argument(help="A table, a folder, a zip or a tar, here or at a URL.")],
    name: Annotated[str, Option("--name", help="What to call the benchmark.")],
    columns: Annotated[
        list[str] | None,
        Option("--column", help="Names of a table's columns, as image=Image,identity=Id; repeat for more."),
    ] = None,
    boxes: Annotated[Boxes | None, Option(help=BOXES)] = None,
    species: Annotated[str, Option(help="The species where nothing else names one.")] = "",
    missing: Annotated[Missing, Option(help="What becomes of photos that are absent.")] = "refuse",
    encounters: Annotated[
        str | None, Option(help="Make encounters of photos of one place that are at most so far apart: 2h.")
    ] = None,
    aliases: Annotated[
        Path | None, Option(help="A table alias,identity and perhaps species: names that are one animal.")
    ] = None,
    given: Annotated[
        Given,
        Option(help="Whether each photo is the part within its box; auto: where files show several animals."),
    ] = "auto",
    dataset: Annotated[
        str, Option(help="The public set they are, as NOAARightWhale: weights trained on it are marked.")
    ] = "",
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Check photos and what is said of them, and make them a benchmark."""
    from whalebench.benchmarks import overview
    from whalebench.benchmarks.core.record import read_runs
    from whalebench.benchmarks.core.remote import fetched_path, is_url
    from whalebench.benchmarks.importing.aliases import read_aliases
    from whalebench.benchmarks.importing.dates import read_rule
    from whalebench.benchmarks.importing.importer import import_photos
    from whalebench.benchmarks.importing.layouts import LayoutOptions, find_layout
    from whalebench.benchmarks.importing.layouts.columns import read_column_names
    from whalebench.benchmarks.presets import next_command
    from whalebench.reports.tables import import_report

    chosen = find_layout(layout)
    options = LayoutOptions(read_column_names(columns or ()), species, boxes or "")
    said: dict[str, Any] = {"missing": missing, "given": given, "dataset": dataset}
    said["aliases"] = read_aliases(aliases) if aliases else None
    said["encounters"] = None if encounters is None else read_rule(encounters)
    place = open_workspace(workspace)
    with console.progress_shown(quiet=as_json) as progress:
        source = fetched_path(path, place.cache) if is_url(path) else Path(path)
        result = import_photos(chosen, source, name, place, options=options, progress=progress, **said)
    facts, notes = overview.catalog_facts(result.catalog), list(result.notes)
    quarantined = [photo._asdict() for photo in result.quarantined]
    following = next_command(result.catalog, read_runs(place.runs).records)
    document = facts | {"quarantined": quarantined, "notes": notes, "next": following}
    console.show(document, import_report(facts, quarantined, notes, following), as_json)


@data.command("show")
def data_show(
    name: NameArgument,
    html: Annotated[Path | None, Option(help="Also write a page of its photos, one file.")] = None,
    photos: PhotosOption = "few",
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Show what a benchmark's catalog holds: photos of individuals, sizes, colours, encounters over time."""
    _show_catalog(name, workspace, as_json, html=html, photos=photos)


@data.command("check")
def data_check(name: NameArgument, as_json: JsonOption = False, workspace: WorkspaceOption = HERE) -> None:
    """Verify that catalog, photos and split are still what they were, and list the quarantine.

    Every photo and mask is decoded again.
    """
    from whalebench.benchmarks.importing.earlier import read_quarantine
    from whalebench.benchmarks.registry import check_content, photos_name
    from whalebench.reports.tables import check_report

    benchmark = _load(name, workspace, as_json)
    folder = workspace / "benchmarks" / photos_name(name)
    with console.progress_shown(quiet=as_json) as progress:
        check_content(benchmark.catalog, progress)
    document: dict[str, Any] = {"name": name, "photos": len(benchmark.catalog.table)} | _digests(benchmark)
    document["quarantined"] = [photo._asdict() for photo in read_quarantine(folder)]
    console.show(document, check_report(document), as_json)


@data.command("audit")
def data_audit(
    name: NameArgument,
    verdicts: Annotated[Path | None, Option(help=f"{VERDICTS} It is kept; no: no pair.")] = None,
    page: Annotated[Path | None, Option(help="Write a page of the pairs, to confirm or reject them.")] = None,
    gate: Annotated[bool, Option("--gate", help="Exit with 1 where the split has leaks.")] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Find photos that show one picture or one moment, and tell which of them the split tears apart."""
    from whalebench.benchmarks.auditing import auditor
    from whalebench.benchmarks.core.outputs import check_output, write_output
    from whalebench.reports import audit_page

    place = open_workspace(workspace)
    if page:
        check_output(page)
    with console.progress_shown(quiet=as_json) as progress:
        made = auditor.audit(name, place, progress, verdicts=verdicts, need_split=gate, force=force)
    document = made.document()
    console.show(document, audit_page.audit_report(document), as_json)
    if page:
        shown = {
            image for pair in audit_page.page_pairs(document) for image in (pair["first"], pair["second"])
        }
        write_output(page, audit_page.audit_page(document, auditor.thumbnails(made.catalog, shown)))
        if not as_json:
            console.show_written(page)
    if gate and made.leaking():
        raise typer.Exit(1)


@data.command("correct")
def data_correct(
    name: NameArgument,
    decisions: Annotated[Path, Argument(help="CSV of decisions, as the page of `predict --html` saves it.")],
    by: Annotated[str, Option(help="Who decided; kept with the new version.")] = "",
    photos: Annotated[
        list[Path] | None, Option(help="New photos that join, as `predict` was given them; repeat for more.")
    ] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Make a new version of a benchmark, as people have decided on its photos; the old one stays."""
    from whalebench.benchmarks import overview
    from whalebench.benchmarks.correcting import correct
    from whalebench.reports.tables import correction_report

    place = open_workspace(workspace)
    with console.progress_shown(quiet=as_json) as progress:
        made = correct(name, decisions, place, by=by, photos=photos or (), progress=progress)
    facts, notes = overview.catalog_facts(made.catalog), list(made.notes)
    document = facts | {"correction": made.change, "notes": notes}
    console.show(document, correction_report(facts, notes), as_json)


@split.command("make")
def split_make(
    name: NameArgument,
    protocol: Annotated[str | None, Option(help=PROTOCOL_HELP)] = None,
    folds: Annotated[int | None, Option(help="How many folds; 5 by default.")] = None,
    singles: Annotated[str | None, Option(help=SINGLES_HELP)] = None,
    valid_share: Annotated[float | None, Option(help="Share of photos outside the test: 0.12.")] = None,
    seed: Annotated[int, Option(help="Seed of the shuffling.")] = 0,
    duplicates: Annotated[str | None, Option(help="Photos in several published parts: refuse, drop.")] = None,
    new_share: Annotated[float | None, Option(help="Share of individuals held out if open: 0.2.")] = None,
    cutoff: Annotated[str | None, Option(help="First day of a time-aware test, as 2024-05-31.")] = None,
    test_share: Annotated[float | None, Option(help="Or the share of photos after it: 0.2.")] = None,
    groups: Annotated[Path | None, Option(help=f"{VERDICTS} Pairs with yes stay in one part.")] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Make the folds of a benchmark, once: those of B, or others as B@NAME; B@twin is the random twin."""
    from whalebench.benchmarks.registry import make_split

    place = open_workspace(workspace)
    with console.progress_shown(quiet=as_json) as progress:
        made = make_split(
            name,
            place,
            protocol=protocol,
            folds=folds,
            singles=singles,
            valid_share=valid_share,
            seed=seed,
            duplicates=duplicates,
            new_share=new_share,
            cutoff=cutoff,
            test_share=test_share,
            groups=groups,
            progress=progress,
        )
    _show_split(name, made, as_json)


@split.command("show")
def split_show(name: NameArgument, as_json: JsonOption = False, workspace: WorkspaceOption = HERE) -> None:
    """Show the folds of a benchmark."""
    _show_split(name, _load(name, workspace, as_json).split, as_json)


@split.command("verify")
def split_verify(name: NameArgument, as_json: JsonOption = False, workspace: WorkspaceOption = HERE) -> None:
    """Verify that the folds are those that were made, for the catalog they were made for."""
    digests = _digests(_load(name, workspace, as_json))
    verified = f"The split of {name} is as it was made: {digests['split_digest'][:16]}."
    console.show({"name": name} | digests, verified, as_json)


@app.command(rich_help_panel=VERIFY)
def doctor(as_json: JsonOption = False, workspace: WorkspaceOption = HERE) -> None:
    """Show what this machine has, and say what is missing."""
    from whalebench.benchmarks.core.machine import doctor_rows
    from whalebench.reports.tables import table_of

    rows = doctor_rows(open_workspace(workspace, write=False).root)
    console.show(rows, table_of(rows, "This machine"), as_json)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


@app.command(rich_help_panel=MEASURE)
def sweep(
    methods: Annotated[list[str] | None, Argument(help=COMPETES, autocompletion=completing.methods)] = None,
    folds: Annotated[str | None, Option(help="Folds to test on, as 0-4 or 0,2; 0 by default.")] = None,
    seeds: Annotated[str | None, Option(help="Seeds, as 0-2; 0 by default.")] = None,
    benchmark: Annotated[
        str | None,
        Option(help="What to measure on; flukes by default.", autocompletion=completing.benchmarks),
    ] = None,
    settings: SettingsOption = None,
    preset: Annotated[str | None, PresetOption.__metadata__[0]] = None,
    plan: Annotated[
        Path | None,
        Option(
            help="All this by name, as humpback-small (docs/systems.md), or by a TOML file; options win.",
            autocompletion=completing.plans,
        ),
    ] = None,
    jobs: Annotated[int | None, Option(help="Runs at a time; by default one for two cores or a GPU.")] = None,
    launcher: LauncherOption = "local",
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    memory: MemoryOption = None,
    slurm: SlurmOption = None,
    device: DeviceOption = "auto",
    time_limit: TimeLimitOption = None,
    retry: Annotated[bool, Option("--retry", help="Try again what has failed before.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Show the plan and start nothing.")] = False,
    svg: Annotated[Path | None, Option(help="Also write a picture of the leaderboard.")] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Run methods on folds and seeds; finished runs are found, and the same command goes on after Ctrl-C."""
    from whalebench.benchmarks.core.durations import read_duration
    from whalebench.benchmarks.core.outputs import check_output, write_output
    from whalebench.benchmarks.launching.choose import choose_launcher
    from whalebench.benchmarks.sweeping.plan import make_plan
    from whalebench.benchmarks.sweeping.sweep import Sweep, prepare
    from whalebench.reports import many_runs, writers

    wanted = {"benchmark": benchmark, "folds": folds, "seeds": seeds, "preset": preset}
    if svg:
        check_output(svg)
    limit = None if time_limit is None else read_duration(time_limit, "--time-limit")
    planned = make_plan(methods or (), plan, settings=tuple(settings or ()), **wanted)
    resources: dict[str, Any] = {"cpus": cpus, "gpus": gpus, "memory": memory, "slurm": slurm or ()}
    place = open_workspace(workspace)
    console.show_problems(planned.left_out)
    with console.progress_shown(quiet=as_json) as progress:
        chosen = choose_launcher(launcher, jobs, device, **resources)
        cells = prepare(planned, chosen, place, progress)
    with console.watch_sweep(quiet=as_json) as show:
        sweeping = Sweep(cells, chosen, place, show, limit)
        if not dry_run:
            sweeping.run(retry=retry)
    state = sweeping.state()
    if dry_run:
        return console.show(sweeping.document(), many_runs.plan_report(state, chosen.jobs), as_json)
    board = many_runs.board_of(cells, place.runs)
    document = sweeping.document() | many_runs.board_json(board)
    console.show(document, many_runs.sweep_report(state, board, sweeping.seconds), as_json)
    if svg and board:
        write_output(svg, writers.to_svg(board))
    if sweeping.stopped:
        console.stopped("The same command goes on from here.")
    raise typer.Exit(130 if sweeping.stopped else 1 if sweeping.failed() else 0)


@app.command(rich_help_panel=MEASURE)
def tune(
    method: MethodArgument,
    benchmark: BenchmarkOption = "flukes",
    fold: FoldOption = 0,
    seed: SeedOption = 0,
    settings: SettingsOption = None,
    preset: PresetOption = "",
    trials: Annotated[
        int | None, Option(help="How many trials, the defaults among them; 20 by default.")
    ] = None,
    budget: Annotated[str | None, Option(help="Work as 2h or 90m, or photos learned from as 500k.")] = None,
    storage: Annotated[
        str | None,
        Option(envvar=STORAGE, help="A database's URL, journal:FILE, or @FILE with a URL in it."),
    ] = None,
    study: Annotated[str | None, Option(help="Its name; by default made of all that is asked.")] = None,
    jobs: Annotated[int, Option(help="Trials at a time.")] = 1,
    launcher: LauncherOption = "local",
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    memory: MemoryOption = None,
    slurm: SlurmOption = None,
    device: DeviceOption = "auto",
    worker: Annotated[int | None, Option(hidden=True)] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Look for better settings by their score on valid, then score the best and the defaults on test once.

    A field that is set is not tuned.
    """
    from whalebench.benchmarks.core.workspace import atomic_text
    from whalebench.benchmarks.launching.choose import choose_launcher
    from whalebench.benchmarks.running.runner import RunRequest, resolved
    from whalebench.benchmarks.tuning import tuner
    from whalebench.benchmarks.tuning.space import read_budget
    from whalebench.benchmarks.tuning.storage import read_storage
    from whalebench.reports import many_runs
    from whalebench.reports.drawings.posters import tuning
    from whalebench.reports.drawings.theme import standalone

    place = open_workspace(workspace)
    resources: dict[str, Any] = {"cpus": cpus, "gpus": gpus, "memory": memory, "slurm": slurm or ()}
    chosen = choose_launcher(launcher, jobs, device, **resources)
    run = RunRequest(method, benchmark, fold, seed, tuple(settings or ()), chosen.device, preset)
    run = resolved(run, place, device_type=chosen.device_type)
    request = tuner.TuneRequest(run, read_budget(trials, budget), read_storage(storage), study)
    if worker is not None:
        return tuner.Tuner(request, place).work(worker)
    alone = launcher == "local" and jobs == 1
    with console.progress_shown(quiet=as_json) as progress:
        tuned = tuner.Tuner(request, place, progress, None if alone else chosen).tune()
    document = many_runs.with_scores(tuned.document(), place.runs)
    atomic_text(tuned.picture, standalone(tuning(document)))
    return console.show(document, many_runs.tuning_report(document), as_json)


@app.command("lr-find", rich_help_panel=MEASURE)
def lr_find(
    method: MethodArgument,
    benchmark: BenchmarkOption = "flukes",
    fold: FoldOption = 0,
    seed: SeedOption = 0,
    settings: SettingsOption = None,
    preset: PresetOption = "",
    device: DeviceOption = "auto",
    svg: Annotated[Path | None, Option(help="Where to draw it instead of the workspace's reports.")] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Try growing learning rates on train, and say at which the loss falls fastest; nothing is recorded."""
    from whalebench.benchmarks.core.outputs import check_output
    from whalebench.benchmarks.core.workspace import atomic_text
    from whalebench.benchmarks.running.runner import RunRequest
    from whalebench.benchmarks.tuning.finding import find_rates
    from whalebench.reports import many_runs
    from whalebench.reports.drawings.posters import rates
    from whalebench.reports.drawings.theme import standalone

    if svg:
        check_output(svg)
    request = RunRequest(method, benchmark, fold, seed, tuple(settings or ()), device, preset)
    with console.progress_shown(quiet=as_json) as progress:
        found = find_rates(request, open_workspace(workspace), progress, svg)
    document = found.document()
    atomic_text(found.picture, standalone(rates(document)))
    console.show(document, many_runs.rates_report(document), as_json)


@app.command(rich_help_panel=MEASURE)
def ensemble(
    runs: Annotated[
        list[str] | None,
        Argument(
            help=f"{RUN} Two or more; one with --then; unless given, all of the newest one's fold and seed.",
            autocompletion=completing.runs,
        ),
    ] = None,
    rule: Annotated[Rule, Option(help="The fusion rule: see docs/ensembles.md.")] = "mean",
    weights: Annotated[str | None, Option(help="One a run, as 0.5,0.5; else fitted, or equal.")] = None,
    pca: Annotated[int | None, Option(help="Principal components, for rules on features.")] = None,
    local_matches: Annotated[bool, Option("--local-matches", help="Key points that pairs share.")] = False,
    hours: Annotated[float | None, Option(help="Most hours local matches may take; 2 by default.")] = None,
    then: Annotated[list[str] | None, Option(help=STEPS)] = None,
    duplicates: Annotated[Path | None, Option(help="CSV of individuals that are one animal.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Combine finished runs of one fold, from their stored scores, and keep what comes of it as a run."""
    from whalebench.benchmarks.ensembles import ensemble as ensembles
    from whalebench.benchmarks.ensembles.members import finished_runs
    from whalebench.benchmarks.ensembles.options import Options, read_groups
    from whalebench.reports.run_report import ensemble_document, ensemble_report

    groups = read_groups(duplicates) if duplicates else ()
    options = Options(pca, local_matches, hours)
    place = open_workspace(workspace)
    members = tuple(runs or finished_runs(place))
    request = ensembles.EnsembleRequest(members, rule, weights, options, tuple(then or ()), groups)
    with console.progress_shown(quiet=as_json) as progress:
        made = ensembles.ensemble(request, place, progress, force=force)
    document = ensemble_document(made.record, made.folder, made.members)
    console.show(document, ensemble_report(document, str(made.folder)), as_json)


@app.command(rich_help_panel=VERIFY)
def submit(
    layout: Annotated[Competition, Option(help="The competition whose format it is.")],
    run: Annotated[str | None, Argument(help=f"{RUN} With --check, whose individuals may be named.")] = None,
    photos: Annotated[
        list[Path] | None,
        Argument(help="Photos, folders, tables to answer for; unless given, the run's test photos."),
    ] = None,
    out: Annotated[Path | None, Option(help="The file to write.")] = None,
    check: Annotated[Path | None, Option(help="Or a file that was written before, to look at.")] = None,
    sample: Annotated[Path | None, Option(help="The competition's sample: its photos and columns.")] = None,
    new_threshold: Annotated[float | None, Option(help="The score below which *new* comes first.")] = None,
    new_first: Annotated[float | None, Option(help="Or the share of photos on which it does: 0.165.")] = None,
    new_rule: Annotated[NewRule | None, Option(help="Else *new* is placed by its score, or second.")] = None,
    then: Annotated[list[str] | None, Option(help=STEPS)] = None,
    duplicates: Annotated[Path | None, Option(help="CSV of individuals that are one animal.")] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Write a run's answers as a competition takes them, held against its rules and its sample."""
    from whalebench.benchmarks.ensembles.options import read_groups
    from whalebench.benchmarks.submitting import formats
    from whalebench.benchmarks.submitting import submit as submitting

    asked: dict[str, Any] = {"new_threshold": new_threshold, "new_first": new_first, "new_rule": new_rule}
    asked |= {"then": tuple(then or ()), "groups": read_groups(duplicates) if duplicates else ()}
    asked |= {"photos": tuple(photos or ()), "device": device}
    place = open_workspace(workspace, write=check is None)
    if check and (out or any(value not in (None, (), "auto") for value in asked.values())):
        raise WhalebenchError(f"{check} is only looked at: give --layout, --sample and a run, and no more.")
    if check:
        made = formats.check_submission(check, layout, place, sample=sample, run=run or "")
    elif out and run:
        with console.progress_shown(quiet=as_json) as progress:
            request = submitting.SubmitRequest(layout, run, out, sample=sample, **asked)
            made = submitting.submit(request, place, progress)
    else:
        raise WhalebenchError(
            "Name a run and --out FILE to write its answers, or --check FILE to look at one."
        )
    console.show(made.document(), made.sentences(), as_json)


@app.command(rich_help_panel=USE)
def cluster(
    run: RunArgument,
    photos: Annotated[list[Path], Argument(help="Photos, folders of them, or a table of them as a CSV.")],
    out: Annotated[Path | None, Option(help="Write the group of each photo to this CSV.")] = None,
    decisions: Annotated[
        Path | None, Option(help="CSV of what a person decided on pairs: these hold, and are counted by.")
    ] = None,
    pairs: Annotated[
        Path | None,
        Option(help="Write pairs to decide on to this CSV, drawn so that they can be counted by."),
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Group new photos without names, one group an individual, and count the individuals."""
    from whalebench.benchmarks.clustering import cluster as clustering
    from whalebench.benchmarks.core.outputs import check_output, csv_text, write_output
    from whalebench.reports.tables import cluster_report

    for wanted in filter(None, (out, pairs)):
        check_output(wanted)
    place = open_workspace(workspace)
    with console.progress_shown(quiet=as_json) as progress:
        made = clustering.cluster(run, photos, place, progress, decisions=decisions, device=device)
    document = made.document()
    console.show(document, cluster_report(document), as_json)
    for file, table in ((out, made.table), (pairs, made.pairs)):
        if file:
            write_output(file, csv_text(table))
            if not as_json:
                console.show_written(file)


def main() -> None:
    """Runs the command line; errors are one sentence and an exit code: 1 failed, 2 wrong use or bad input."""
    gc.set_threshold(GARBAGE)
    if is_orphan():
        raise SystemExit(1)
    let_others_work()
    console.write_in_any_encoding()
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    called = partial(commands_of(app), arguments, prog_name="whalebench", standalone_mode=False)
    console.exit_with_sentence(called, debug=debug)


GARBAGE = 100_000
"""New objects from which on Python looks for garbage: imports make many and leave none of them, and looking
after each 700 takes a sixth of the time to the first answer."""
commands_of = cache(get_command)
"""What the annotations of an app say, put together once a process: it takes longer than many a command."""


def _load(name: str, workspace: Path, quiet: bool) -> "Benchmark":
    """The benchmark with its split, both verified."""
    from whalebench.benchmarks.registry import load_benchmark

    with console.progress_shown(quiet=quiet) as progress:
        return load_benchmark(name, open_workspace(workspace, write=False), progress)


def _digests(benchmark: "Benchmark") -> dict[str, str]:
    return {"catalog_digest": benchmark.catalog.digest, "split_digest": benchmark.split.digest}


def _show_catalog(
    name: str,
    workspace: Path,
    as_json: bool,
    sheet: Path | None = None,
    html: Path | None = None,
    photos: PhotosOfPage = "none",
) -> None:
    from whalebench.benchmarks import overview, registry
    from whalebench.benchmarks.core.outputs import check_output, write_output
    from whalebench.benchmarks.pictures import contact_sheet
    from whalebench.reports.tables import facts_table

    if html:
        check_output(html)
    place = open_workspace(workspace, write=False)
    with console.progress_shown(quiet=as_json) as progress:
        catalog = registry.load_catalog(name, place, progress)
        facts = overview.catalog_facts(catalog)
        if html:
            from whalebench.reports.page.exploring import catalog_page

            write_output(html, catalog_page(catalog, facts, place, photos, progress))
    if sheet:
        contact_sheet(catalog.table, sheet, title=name)
        facts["contact sheet"] = str(sheet)
    console.show(facts, facts_table(facts), as_json)
    if html and not as_json:
        console.show_written(html)


def _show_split(name: str, made: "Split", as_json: bool) -> None:
    from whalebench.benchmarks import overview
    from whalebench.reports.tables import split_report

    facts, rows = overview.split_facts(made), overview.split_rows(made)
    document = {"name": name} | facts | {"parts": rows}
    console.show(document, split_report(name, facts, rows, list(made.warnings)), as_json)
