"""The commands that read finished runs and nothing else; `cli.py` gives each its name.

Each parses, calls and prints. Options that other commands have, too, are here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Argument, Option

from whalebench.reports import completing, console

if TYPE_CHECKING:
    from whalebench.benchmarks.core.workspace import Workspace
    from whalebench.reports.board import Leaderboard

PLACE = "WHALEBENCH_WORKSPACE"
"""The environment variable that says which workspace is meant where nothing else does."""


def workspace_folder(place: str) -> Path:
    """The folder that --workspace means: of a URL that of its working copy here."""
    from whalebench.benchmarks.core.copies import folder_of

    return folder_of(place)


WorkspaceOption = Annotated[
    Path,
    Option(
        "--workspace",
        envvar=PLACE,
        parser=workspace_folder,
        metavar="PATH",
        help="Folder of benchmarks, runs, reports, cache; or a URL, as s3://bucket/folder.",
    ),
]
JsonOption = Annotated[bool, Option("--json", help="Print one JSON document and nothing else.")]
OfBenchmarkOption = Annotated[
    str | None, Option("--benchmark", help="Only this benchmark.", autocompletion=completing.benchmarks)
]
PhotosOfPage = Literal["none", "few", "all"]
PhotosOption = Annotated[
    PhotosOfPage,
    Option("--photos", help="Photos on the page: mind their licences, where others are to see it."),
]
RUN = "A run: its name or as much of it as no other has, its folder, a method with one run, or @last."
RunArgument = Annotated[str, Argument(help=RUN, autocompletion=completing.runs)]
HERE = Path("workspace")


def open_workspace(folder: Path, *, write: bool = True) -> Workspace:
    """The workspace there; made where it is absent, or only to be read and left as it is."""
    from whalebench.benchmarks.core.workspace import Workspace

    return Workspace.open(folder, write=write)


def report(
    benchmark: OfBenchmarkOption = None,
    html: Annotated[Path | None, Option(help="Also write a page to look at, one file.")] = None,
    opened: Annotated[bool, Option("--open", help="Open the page, in reports/ unless --html says.")] = False,
    photos: PhotosOption = "few",
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
    html = html or (place.reports / "leaderboard.html" if opened else None)
    board = leaderboard.leaderboard(place.runs, benchmark, closely=full or html is not None)
    page = (html, _board_page(board, workspace, html, photos, quiet=as_json)) if html else None
    written, problems = writers.write_reports(board, place.reports, page=page, csv_file=csv, svg=svg)
    console.show_problems(problems)
    if html and opened and typer.launch(str(html.resolve())):
        console.show_problems([f"Nothing here opens {html}: open it with a browser."])
    if latex:
        return typer.echo(writers.to_latex(board))
    if as_json:
        console.show(writers.to_rows(board), None, as_json)
        return console.show_problems(board.problems)
    console.show(None, document.render(board, full=full, notes=notes), as_json)
    return console.show_written(*written)


def _board_page(board: Leaderboard, workspace: Path, file: Path, photos: PhotosOfPage, *, quiet: bool) -> str:
    """The page of a leaderboard; that its file can be written is checked before an hour of photos."""
    from whalebench.benchmarks.core.outputs import check_output
    from whalebench.reports.page.page import board_page

    check_output(file)
    with console.progress_shown(quiet=quiet) as progress:
        return board_page(board, open_workspace(workspace, write=False), photos, progress)


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
    html: Annotated[Path | None, Option(help="Also write the page of the run, one file.")] = None,
    photos: PhotosOption = "few",
    as_json: JsonOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Show what one run was given, what it came to, for which photos, and what that asks of a reviewer."""
    from whalebench.benchmarks.core.outputs import check_output, write_output
    from whalebench.benchmarks.core.record import find_run
    from whalebench.reports.drawings.runs import Reviewed, effort
    from whalebench.reports.drawings.theme import standalone
    from whalebench.reports.run_report import effort_of, run_document, show_report

    for file in filter(None, (svg, html)):
        check_output(file)
    folder = find_run(run, open_workspace(workspace, write=False))
    document = run_document(folder)
    console.show(document, show_report(document, folder), as_json)
    if svg:
        reviewed = Reviewed(document["run"], document["effort_curve"], effort_of(document))
        write_output(svg, standalone(effort([reviewed])))
    if html:
        write_output(html, _run_page(folder, photos, quiet=as_json))
        if not as_json:
            console.show_written(html)


def _run_page(folder: Path, photos: PhotosOfPage, *, quiet: bool) -> str:
    """The page of a run, with what lies around it in its workspace, which may be another one."""
    from whalebench.reports.leaderboard import leaderboard
    from whalebench.reports.page.page import run_page

    board = leaderboard(folder.parent, runs={folder.name}, closely=True)
    with console.progress_shown(quiet=quiet) as progress:
        return run_page(board, open_workspace(folder.parent.parent, write=False), photos, progress)


def rescore(
    runs: Annotated[
        list[str] | None, Argument(help=f"{RUN} All runs unless said.", autocompletion=completing.runs)
    ] = None,
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
