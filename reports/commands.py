"""The commands that read runs and benchmarks, and change none; `cli.py` gives each its name.

Each parses, calls and prints. Options that other commands have, too, are here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from whalebench import WhalebenchError
from whalebench.reports import console

if TYPE_CHECKING:
    from whalebench.benchmarks.core.workspace import Workspace
    from whalebench.benchmarks.registry import Benchmark
    from whalebench.splits.split import Split

WorkspaceOption = Annotated[
    Path,
    Option("--workspace", envvar="WHALEBENCH_WORKSPACE", help="Folder of benchmarks, runs, reports, cache."),
]
JsonOption = Annotated[bool, Option("--json", help="Print one JSON document and nothing else.")]
OfBenchmarkOption = Annotated[str | None, Option("--benchmark", help="Only this benchmark.")]
RUN = "A run: its name or as much of it as no other has, its folder, a method with one run, or @last."
RunArgument = Annotated[str, Argument(help=RUN)]
NameArgument = Annotated[str, Argument(help="A benchmark; `whalebench benchmarks` lists them.")]
HERE = Path("workspace")


def open_workspace(folder: Path, *, write: bool = True) -> Workspace:
    """The workspace there; made where it is absent, or only to be read and left as it is."""
    from whalebench.benchmarks.core.workspace import Workspace

    return Workspace.open(folder, write=write)


def report(
    benchmark: OfBenchmarkOption = None,
    html: Annotated[Path | None, Option(help="Also write a page to look at.")] = None,
    csv: Annotated[Path | None, Option(help="Also write the rows as CSV.")] = None,
    svg: Annotated[Path | None, Option(help="Also write a picture of the tables.")] = None,
    full: Annotated[
        bool, Option("--full", help="Single runs by fold and seed, and what they rest on.")
    ] = False,
    notes: Annotated[bool, Option("--notes", help="What columns mean, and all that is to be known.")] = False,
    latex: Annotated[bool, Option("--latex", help="Print the main tables in LaTeX instead.")] = False,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Print the leaderboard, and write it as Markdown, CSV and JSON into the workspace."""
    from whalebench.reports import document, leaderboard, writers

    place = open_workspace(workspace, write=False)
    board = leaderboard.leaderboard(place.runs, benchmark, closely=full or html is not None)
    written, problems = writers.write_reports(board, place.reports, html=html, csv_file=csv, svg=svg)
    console.show_problems(problems)
    if latex:
        return typer.echo(writers.to_latex(board))
    console.show(writers.to_rows(board), document.render(board, full=full, notes=notes), as_json)
    if as_json:
        return console.show_problems(board.problems)
    return console.show_written(*written)


def runs(
    benchmark: OfBenchmarkOption = None, as_json: JsonOption = False, workspace: WorkspaceOption = HERE
) -> None:
    """List the finished runs, the newest first."""
    from whalebench.reports.runs import list_runs, runs_report

    rows, problems = list_runs(open_workspace(workspace, write=False).runs, benchmark)
    console.show(rows, runs_report(rows, problems), as_json)
    if as_json:
        console.show_problems(problems)


def show(
    run: RunArgument,
    svg: Annotated[Path | None, Option(help="Also draw how many candidates find which share.")] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Show what one run was given, what it came to, for which photos, and what that asks of a reviewer."""
    from whalebench.benchmarks.core.outputs import check_output, write_output
    from whalebench.benchmarks.core.record import find_run
    from whalebench.reports import figures
    from whalebench.reports.run_report import effort_of, run_document, show_report

    if svg:
        check_output(svg)
    folder = find_run(run, open_workspace(workspace, write=False))
    document = run_document(folder)
    console.show(document, show_report(document, folder), as_json)
    if svg:
        write_output(svg, figures.effort_svg(document["run"], document["effort_curve"], effort_of(document)))


def compare(
    first: Annotated[str, Argument(help=f"{RUN} Several runs of one method: all of them.")],
    second: Annotated[str, Argument(help="What it is compared with, the same.")],
    photos: Annotated[int, Option(help="How many photos on which they disagree most are shown.")] = 10,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Say which of two is better, by how much, how sure that is, and on which photos they disagree most."""
    from whalebench.reports.comparing import compare_runs, comparison_report

    document = compare_runs(first, second, open_workspace(workspace, write=False), photos)
    console.show(document, comparison_report(document), as_json)


def rescore(
    runs: Annotated[list[str] | None, Argument(help=f"{RUN} All runs unless said.")] = None,
    write: Annotated[bool, Option("--write", help="Put what moved into record and predictions.")] = False,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Compute every metric again from the stored scores, and say what moved; 1 if something did."""
    from whalebench.reports.runs import rescore_report, rescore_runs

    with console.progress_shown(quiet=as_json) as progress:
        rescored = rescore_runs(runs or (), open_workspace(workspace, write=write), progress, write=write)
    console.show([one.document() for one in rescored], rescore_report(rescored), as_json)
    if any(one.moved or one.problem for one in rescored):
        raise typer.Exit(1)


def bundle(
    file: Annotated[Path, Argument(help="The .zip to write.")],
    benchmark: OfBenchmarkOption = None,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Pack what another person needs to print the same report, without photos, scores and weights."""
    from whalebench.reports.runs import write_bundle

    left_out = write_bundle(file, open_workspace(workspace, write=False), benchmark)
    console.show_written(file)
    console.show_problems(left_out)


def benchmarks(
    name: Annotated[str | None, Argument(help="Show one benchmark.")] = None,
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


def data_show(name: NameArgument, as_json: JsonOption = False, workspace: WorkspaceOption = HERE) -> None:
    """Show what a benchmark's catalog holds."""
    _show_catalog(name, workspace, as_json)


def data_check(name: NameArgument, as_json: JsonOption = False, workspace: WorkspaceOption = HERE) -> None:
    """Verify that catalog, photos and split are still what they were, and list the quarantine.

    Every photo and mask is decoded again.
    """
    from whalebench.benchmarks.importing.importer import read_quarantine
    from whalebench.benchmarks.registry import check_content
    from whalebench.reports.tables import check_report

    benchmark, folder = _load(name, workspace, as_json), workspace / "benchmarks" / name
    with console.progress_shown(quiet=as_json) as progress:
        check_content(benchmark.catalog, progress)
    document: dict[str, Any] = {"name": name, "photos": len(benchmark.catalog.table)} | _digests(benchmark)
    document["quarantined"] = [photo._asdict() for photo in read_quarantine(folder)]
    console.show(document, check_report(document), as_json)


def split_show(name: NameArgument, as_json: JsonOption = False, workspace: WorkspaceOption = HERE) -> None:
    """Show the folds of a benchmark."""
    show_split(name, _load(name, workspace, as_json).split, as_json)


def split_verify(name: NameArgument, as_json: JsonOption = False, workspace: WorkspaceOption = HERE) -> None:
    """Verify that the folds are those that were made, for the catalog they were made for."""
    digests = _digests(_load(name, workspace, as_json))
    verified = f"The split of {name} is as it was made: {digests['split_digest'][:16]}."
    console.show({"name": name} | digests, verified, as_json)


def _load(name: str, workspace: Path, quiet: bool) -> Benchmark:
    """The benchmark with its split, both verified."""
    from whalebench.benchmarks.registry import load_benchmark

    with console.progress_shown(quiet=quiet) as progress:
        return load_benchmark(name, open_workspace(workspace, write=False), progress)


def _digests(benchmark: Benchmark) -> dict[str, str]:
    return {"catalog_digest": benchmark.catalog.digest, "split_digest": benchmark.split.digest}


def _show_catalog(name: str, workspace: Path, as_json: bool, sheet: Path | None = None) -> None:
    from whalebench.benchmarks import overview, registry
    from whalebench.benchmarks.pictures import contact_sheet
    from whalebench.reports.tables import facts_table

    with console.progress_shown(quiet=as_json) as progress:
        catalog = registry.load_catalog(name, open_workspace(workspace, write=False), progress)
    facts = overview.catalog_facts(catalog)
    if sheet:
        contact_sheet(catalog.table, sheet, title=name)
        facts["contact sheet"] = str(sheet)
    console.show(facts, facts_table(facts), as_json)


def show_split(name: str, made: Split, as_json: bool) -> None:
    """Prints the folds."""
    from whalebench.benchmarks import overview
    from whalebench.reports.tables import split_report

    facts, rows = overview.split_facts(made), overview.split_rows(made)
    document = {"name": name} | facts | {"parts": rows}
    console.show(document, split_report(name, facts, rows, list(made.warnings)), as_json)
