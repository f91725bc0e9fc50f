"""The door for Python: what `whalebench.run` and its like do; each parses, calls and returns.

Heavy imports are within the functions, as in `cli.py`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from whalebench.benchmarks.core.progress import SILENT
from whalebench.reports import commands, console

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import pandas as pd

    from whalebench.benchmarks.core.progress import Progress
    from whalebench.benchmarks.core.record import RunRecord
    from whalebench.benchmarks.core.workspace import Workspace

Place = str | Path | None
"""The folder of a workspace or its URL; None for what $WHALEBENCH_WORKSPACE names, else ./workspace."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    name: str
    """Of its folder, or of a gallery that photos have joined."""
    record: RunRecord
    """All that is known of it; docs/record.md says what."""
    workspace: Path

    @property
    def metrics(self) -> dict[str, float | None]:
        """The metrics on test by name, as `map_at_5`; None where undefined."""
        return dict(self.record.metrics)

    def predict(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        by: Literal["photo", "encounter"] = "photo",
        device: str = "auto",
        progress: bool = False,
    ) -> pd.DataFrame:
        """Who is on new photos: up to five rows a photo or encounter, the best candidate first.

        Paths are of photos, of folders of them, or of a table that says their boxes, encounters or sides. The
        columns are `photo, encounter, place, candidate, probability, score, in_set, set_size, new, nearest`;
        the candidate `new` is somebody else than the run has learned. What could not be used is warned of.
        Raises WhalebenchError for a run that cannot be asked.
        """
        from whalebench.benchmarks.predicting.predict import predict

        given = [paths] if isinstance(paths, str | Path) else paths
        place = _open(self.workspace)
        with _progress(progress) as shown:
            said = predict(self.name, [Path(path) for path in given], place, shown, by=by, device=device)
        _warn((*said.problems, *said.notes))
        return said.table()


def run(
    method: str | Path,
    benchmark: str = "flukes",
    *,
    fold: int = 0,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    preset: str = "",
    device: str = "auto",
    force: bool = False,
    workspace: Place = None,
    progress: bool = False,
) -> Run:
    """Learns on one fold and scores its test photos, as `whalebench run` does; a finished run is found.

    The method is a name or the file of one, as ./my_method.py; settings are its fields, as {"epochs": 3}.
    Raises WhalebenchError for what cannot be, and RunFailedError for what went wrong.
    """
    from whalebench.benchmarks.running import runner
    from whalebench.benchmarks.sweeping.plan import settings_of

    fields = settings_of(settings or {}, "settings")
    request = runner.RunRequest(str(method), benchmark, fold, seed, fields, device, preset)
    place = _open(workspace)
    with _progress(progress) as shown:
        record = runner.run(request, place, shown, force=force)
    return Run(record.run, record, place.root)


def load(run: str, *, workspace: Place = None) -> Run:
    """A finished run: by its name or as much of it as no other has, its method where that has one, or @last.

    Raises WhalebenchError where there is none, or several.
    """
    from whalebench.benchmarks.core.record import find_run, read_record
    from whalebench.benchmarks.predicting.gallery import find_gallery

    place = _open(workspace, write=False)
    added = find_gallery(run, place)
    folder = find_run(added.run if added else run, place)
    return Run(run if added else folder.name, read_record(folder), place.root)


def runs(benchmark: str | None = None, *, workspace: Place = None) -> pd.DataFrame:
    """The finished runs, a row each, the newest first: `run, method, benchmark, fold, seed, map_at_5, ...`.

    What cannot be read is warned of. Raises WhalebenchError where there is none.
    """
    import pandas as pd

    from whalebench.reports.runs import list_runs

    rows, problems = list_runs(_open(workspace, write=False).runs, benchmark)
    _warn(problems)
    return pd.DataFrame(rows)


def predictions(run: str | Run, *, workspace: Place = None) -> pd.DataFrame:
    """What a run said of its test photos, a row each: `image, truth, candidate_1, ...`, see docs/record.md.

    Raises WhalebenchError for a table that is not as the run has left it.
    """
    from whalebench.benchmarks.core.record import read_predictions

    found = run if isinstance(run, Run) else load(run, workspace=workspace)
    return read_predictions(_open(found.workspace, write=False).runs / found.record.run, record=found.record)


def leaderboard(benchmark: str | None = None, *, workspace: Place = None) -> pd.DataFrame:
    """The leaderboard, a row a contestant, the best of each benchmark first, and floors below.

    `place` is the letter of those it is ranked with and its ranks there, `low` and `high` are the ends of the
    95 % interval of `map_at_5`, other metrics are means over seeds and folds. What cannot be read is warned
    of. Raises WhalebenchError where nothing has been run.
    """
    import pandas as pd

    from whalebench.reports.leaderboard import leaderboard as board_of
    from whalebench.reports.writers import contestant_rows

    board = board_of(_open(workspace, write=False).runs, benchmark)
    _warn(board.problems)
    return pd.DataFrame(contestant_rows(board))


def _open(workspace: Place, *, write: bool = True) -> Workspace:
    place = os.environ.get(commands.PLACE) or commands.HERE if workspace is None else workspace
    return commands.open_workspace(commands.workspace_folder(str(place)), write=write)


def _progress(shown: bool) -> AbstractContextManager[Progress]:
    """Progress on stderr, as the command shows it, or none."""
    return console.progress_shown() if shown else nullcontext(SILENT)


def _warn(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        warnings.warn(sentence, stacklevel=3)
