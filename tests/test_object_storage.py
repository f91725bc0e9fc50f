"""Workspaces and photos at URLs: two machines see the same, and nobody ever sees half a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import whalebench
from whalebench import MissingError, RunFailedError, WhalebenchError
from whalebench.benchmarks.core import copies, ledger, remote
from whalebench.benchmarks.core.catalog import read_facts
from whalebench.benchmarks.core.copies import Copy, copy_of, folder_of
from whalebench.benchmarks.core.record import (
    DIAGNOSIS,
    RECORD,
    Diagnosis,
    read_predictions,
    read_runs,
    write_record,
    write_run,
)
from whalebench.benchmarks.core.remote import check_url, fetched_path, url_of
from whalebench.benchmarks.core.workspace import ExistsError, Workspace, atomic_text
from whalebench.benchmarks.importing.importer import import_photos
from whalebench.benchmarks.importing.layouts import LAYOUTS
from whalebench.benchmarks.registry import load_benchmark, load_catalog, make_split
from whalebench.reports import writers
from whalebench.reports.leaderboard import leaderboard
from whalebench.tests.conftest import draw_source
from whalebench.tests.synthetic_runs import put, queries_of, record

RANKS = np.array([1, 2, 1, 9])
Machine = Callable[..., Workspace]


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def url() -> str:
    """The URL of a workspace that nobody else has."""
    return f"memory:///{uuid.uuid4().hex}/ws"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> Machine:
    """Opens the workspace on a machine of that name."""

    def opened(name: str, *, write: bool = True, at: str = url) -> Workspace:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        return Workspace.open(folder_of(at), write=write)

    return opened


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the store is asked, by what."""
    counted: Counter[str] = Counter()
    kind = type(fsspec.filesystem("memory"))

    def counting(name: str) -> Callable[..., Any]:
        asked = getattr(kind, name)

        def method(self: Any, *args: Any, **options: Any) -> Any:
            counted[name] += 1
            return asked(self, *args, **options)

        return method

    for name in ("cat_file", "find", "pipe_file", "get_file", "put_file", "info"):
        monkeypatch.setattr(kind, name, counting(name))
    return counted


def add(workspace: Workspace, name: str, **change: Any) -> None:
    put(workspace.runs, record(name, **change), queries_of(RANKS, 0, 5))


def objects(url: str) -> list[str]:
    system, place = remote.place_at(url)
    return sorted(name.removeprefix(f"{place}/") for name in system.find(place))


def stop_at_record(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """From now on whoever puts a record to the URL comes no further."""
    whole = Copy._put

    def stopped(self: Copy, key: str, *args: Any, **options: Any) -> bool:
        if key.endswith(RECORD):
            raise error
        return whole(self, key, *args, **options)

    monkeypatch.setattr(Copy, "_put", stopped)


def test_a_run_of_one_machine_is_seen_by_another_and_read_when_it_is_asked_for(machine: Machine) -> None:
    add(machine("one"), "a")
    two = machine("two", write=False)
    (seen,) = read_runs(two.runs).records
    assert [file.name for file in (two.runs / "a").iterdir()] == [RECORD]
    assert read_predictions(two.runs / "a", record=seen)["rank"].tolist() == RANKS.tolist()
    assert len(leaderboard(two.runs).tables) == 1


def test_a_file_that_differs_from_its_digest_at_the_url_is_refused(machine: Machine, url: str) -> None:
    add(machine("one"), "a")
    system, place = remote.place_at(url)
    (name,) = system.glob(f"{place}/runs/a/*/predictions.parquet")
    system.pipe_file(name, b"PAR1 of somebody else")
    two = machine("two", write=False)
    with pytest.raises(WhalebenchError, match="differs from its digest"):
        read_predictions(two.runs / "a")


def test_nobody_sees_a_run_whose_writer_was_killed_and_the_next_writer_there_completes_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    one = machine("one")
    with monkeypatch.context() as patch:
        stop_at_record(patch, Killed())
        with pytest.raises(Killed):
            add(one, "a")
    assert any(name.endswith("predictions.parquet") for name in objects(url))
    assert read_runs(machine("two").runs).records == []
    machine("one", write=False)
    assert read_runs(machine("two").runs).records == []
    machine("one")
    two = machine("two")
    assert [run.run for run in read_runs(two.runs).records] == ["a"]
    assert len(read_predictions(two.runs / "a")) == len(RANKS)


def test_where_the_url_is_out_of_reach_a_sentence_says_what_is_kept(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = machine("one")
    with monkeypatch.context() as patch:
        patch.setattr(Copy, "_there", lambda *_: (_ for _ in ()).throw(TimeoutError("no answer")))
        with pytest.raises(RunFailedError, match=r"out of reach \(no answer\).*a is kept and sent by it"):
            add(one, "a")
    machine("one")
    assert [run.run for run in read_runs(machine("two").runs).records] == ["a"]


def test_the_first_whole_run_stays_and_the_second_writer_takes_it(machine: Machine, url: str) -> None:
    one, two = machine("one"), machine("two")  # both before there is a run
    add(one, "a", created="2026-11-23T12:00:00+00:00")
    add(two, "a", created="2026-11-24T12:00:00+00:00")
    for name in ("one", "two", "three"):
        workspace = machine(name)
        (seen,) = read_runs(workspace.runs).records
        assert seen.created.startswith("2026-11-23")
        assert len(read_predictions(workspace.runs / "a")) == len(RANKS)
    assert len({name.split("/")[2] for name in objects(url) if name.startswith("runs/a/")}) == 2


def test_a_writer_that_comes_second_between_look_and_record_leaves_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    one, two = machine("one"), machine("two")
    whole = Copy._send_files

    def sent(self: Copy, files: Any) -> None:
        whole(self, files)
        if self.root == two.root:  # in this moment the other one is done
            add(one, "a", created="2026-11-23T12:00:00+00:00")

    monkeypatch.setattr(Copy, "_send_files", sent)
    add(two, "a", created="2026-11-24T12:00:00+00:00")
    assert read_runs(two.runs).records[0].created.startswith("2026-11-23")
    assert len({name.split("/")[2] for name in objects(url) if name.startswith("runs/a/")}) == 2


def test_a_repeated_run_replaces_the_one_before_everywhere_with_what_was_added_to_it(
    machine: Machine, url: str
) -> None:
    add(one := machine("one"), "a")
    facts = dict.fromkeys(("test", "mirrored"), 0.5)
    said = Diagnosis(map_at_5=facts, chance={}, photos={}, region="none", created="2026-11-23T12:00:00+00:00")
    write_record(one.runs / "a", said, DIAGNOSIS)
    two = machine("two")
    read_predictions(two.runs / "a")
    assert (two.runs / "a" / DIAGNOSIS).exists()

    def fill(folder: Path) -> None:
        queries_of(RANKS[:3], 0, 5).to_parquet(folder / "predictions.parquet")
        write_record(folder, record("a", created="2026-11-25T12:00:00+00:00"))

    write_run(two.runs / "a", fill, force=True)
    one = machine("one")
    assert read_runs(one.runs).records[0].created.startswith("2026-11-25")
    assert len(read_predictions(one.runs / "a")) == 3
    assert not (one.runs / "a" / DIAGNOSIS).exists()
    assert len({name.split("/")[2] for name in objects(url) if name.startswith("runs/a/")}) == 2


def test_what_is_removed_at_the_url_is_gone_on_every_machine(machine: Machine, url: str) -> None:
    add(machine("one"), "a")
    machine("two")
    system, place = remote.place_at(url)
    system.rm(f"{place}/runs/a", recursive=True)
    for name in ("one", "two"):
        assert not (machine(name).runs / "a").exists()
    assert not any(name.startswith("runs/a/") for name in objects(url))


def test_no_line_of_the_ledger_is_lost_or_replaced(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = machine("one"), machine("two")
    facts = {"method": "m", "settings": "s", "benchmark": "b", "catalog_digest": "c", "split_digest": "d"}
    entry = ledger.Opening(**facts, fold=0, seed=0, run="r", when="2026-11-23T12:00:00+00:00")
    for workspace in (one, two, two):
        ledger.append(workspace, entry)
    for name in ("one", "two"):
        assert ledger.read_ledger(machine(name).runs).entries == [entry] * 3
    monkeypatch.setattr(Copy, "_put", lambda *_, **__: (_ for _ in ()).throw(TimeoutError("no answer")))
    with pytest.raises(RunFailedError, match="out of reach"):
        ledger.append(one, entry)


def test_requests_do_not_grow_with_runs_and_files_once_they_are_here(
    machine: Machine, requests: Counter[str]
) -> None:
    one = machine("one")

    def asked() -> int:
        leaderboard(machine("two", write=False).runs)
        requests.clear()
        leaderboard(machine("two", write=False).runs)
        return requests.total()

    add(one, "a")
    few = asked()
    for number in range(8):
        add(one, f"b{number}", seed=number + 1)
    assert asked() == few == 5  # what is laid out, and four listings


def test_whoever_may_not_write_is_told_so_before_hours_of_work(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(machine("one"), "a")
    kind = type(fsspec.filesystem("memory"))
    refused = PermissionError("Access Denied")
    monkeypatch.setattr(kind, "pipe_file", lambda *_, **__: (_ for _ in ()).throw(refused))
    two = machine("two", write=False)
    assert len(read_runs(two.runs).records) == 1
    with pytest.raises(WhalebenchError, match=r"does not let you in \(Access Denied\): give credentials"):
        machine("two")
    board, folder = leaderboard(two.runs), two.reports
    assert any("were not written" in each for each in writers.write_reports(board, folder)[1])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The table of some photos, which are at a URL, too: file://... of the same path."""
    return draw_source(tmp_path / "source")


def load(place: str, name: str, workspace: Workspace, layout: str = "csv") -> Any:
    path = fetched_path(place, workspace.cache) if remote.is_url(place) else Path(place)
    return import_photos(LAYOUTS[layout], path, name, workspace)


def test_a_table_at_a_url_names_photos_at_urls_and_any_machine_has_them(
    machine: Machine, source: Path, tmp_path: Path
) -> None:
    one = machine("one")
    made = load(f"file://{source}", "seals", one).catalog
    split = make_split("seals", one)
    two = machine("two")
    benchmark = load_benchmark("seals", two)
    assert benchmark.catalog.digest == made.digest
    assert benchmark.split.digest == split.digest
    assert read_facts(two.benchmarks / "seals")["source"] == f"file://{source}"
    assert {url_of(path) for path in benchmark.catalog.table["path"]} == {
        f"file://{photo}" for photo in (tmp_path / "source" / "photos").iterdir()
    }
    assert benchmark.store.pixels((8, 8)).shape[0] == len(made.table)
    local = Workspace.open(tmp_path / "local")
    assert load(str(source), "seals", local).catalog.digest == made.digest  # where they lie plays no part


def test_a_table_here_may_name_photos_at_urls(source: Path, tmp_path: Path) -> None:
    table = source.read_text().replace(",photos/", f",file://{source.parent}/photos/")
    (tmp_path / "here.csv").write_text(table)
    workspace = Workspace.open(tmp_path / "workspace")
    catalog = load(str(tmp_path / "here.csv"), "seals", workspace).catalog
    assert all(Path(path).is_relative_to(workspace.cache) for path in catalog.table["path"])
    assert load_catalog("seals", workspace).digest == catalog.digest


def test_folders_at_a_url_are_individuals(source: Path, tmp_path: Path, url: str) -> None:
    system, place = remote.place_at(url)
    for photo in sorted((source.parent / "photos").glob("w0[01]*")):
        system.pipe_file(f"{place}/photos/{photo.name[:3]}/{photo.name}", photo.read_bytes())
    system.pipe_file(f"{place}/photos/.hidden/a.png", b"")
    workspace = Workspace.open(tmp_path / "workspace")
    catalog = load(f"{url}/photos", "seals", workspace, "folder").catalog
    assert catalog.identities == ("w00", "w01")
    system.rm(place, recursive=True)
    assert load_catalog("seals", workspace).digest == catalog.digest  # they were fetched once
    with pytest.raises(WhalebenchError, match="There are no files below"):
        load(f"{url}/nothing", "others", workspace, "folder")


def test_a_photo_that_is_another_one_by_now_is_named(machine: Machine, source: Path) -> None:
    load(f"file://{source}", "seals", machine("one"))
    photos = sorted((source.parent / "photos").iterdir())
    photos[0].write_bytes(photos[1].read_bytes())
    photos[2].unlink()
    load_catalog("seals", machine("one"))  # which has what was catalogued
    with pytest.raises(
        WhalebenchError, match=rf"1 photo is gone \({photos[2].name}.*changed \({photos[0].name}"
    ):
        load_catalog("seals", machine("two"))


def test_the_first_benchmark_of_a_name_stays_whole(machine: Machine, source: Path, tmp_path: Path) -> None:
    one, two = machine("one"), machine("two")
    first = load(f"file://{source}", "seals", one).catalog
    other = tmp_path / "other.csv"
    lines = source.read_text().splitlines()[:-3]
    other.write_text("\n".join(lines).replace(",photos/", f",file://{source.parent}/photos/"))
    with pytest.raises(ExistsError, match="never replaced"):
        load(str(other), "seals", two)
    for name in ("one", "two", "three"):
        assert load_catalog("seals", machine(name)).digest == first.digest


def test_photos_copied_from_an_archive_are_on_every_machine(
    machine: Machine, source: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "seals.tar"
    subprocess.run(["tar", "-C", str(source.parent), "-cf", str(packed), "."], check=True)
    first = load(str(packed), "seals", machine("one")).catalog
    packed.unlink()
    two = machine("two")
    assert not (two.benchmarks / "seals" / "photos").exists()
    assert load_benchmark("seals", two, propose=True).catalog.digest == first.digest


def test_what_is_drawn_is_not_sent(machine: Machine, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from whalebench.benchmarks import flukes

    draw = flukes.draw_flukes
    monkeypatch.setattr(flukes, "draw_flukes", lambda folder, **_: draw(folder, workers=1, photos=20))
    one = machine("one")
    load_catalog("flukes", one)
    atomic_text(one.benchmarks / "flukes" / "audit.json", "{}")
    assert [name for name in objects(url) if name.startswith("benchmarks")] == [
        "benchmarks/flukes/audit.json"
    ]
    two = machine("two")
    load_catalog("flukes", two)
    assert (two.benchmarks / "flukes" / "audit.json").exists()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("s3://ann:SECRET@bucket/ws", r"^The URL s3://\.\.\. holds a password"),
        ("https://host/ws?X-Amz-Signature=SECRET", r"^The URL https://\.\.\. holds a password"),
        ("s3://", "is no URL of a file or a folder"),
        ("s3://bucket/../ws", "is no URL of a file or a folder"),
        ("nosuch://bucket/ws", "nosuch:// is no protocol that fsspec knows"),
        ("gs://bucket/ws", r"gs:// needs a package that is absent: pip install gcsfs\."),
        ("az://bucket/ws", r"az:// needs a package that is absent: pip install adlfs\."),
    ],
)
def test_a_url_that_cannot_be_is_a_sentence_without_secrets(
    place: str, said: str, cli: Callable[..., Any], tmp_path: Path
) -> None:
    for command in (("runs", "--workspace", place), ("data", "import", "folder", place, "--name", "x")):
        workspace = () if "--workspace" in command else ("--workspace", tmp_path / "ws")
        if ("gs:" in place and find_spec("gcsfs")) or ("az:" in place and find_spec("adlfs")):
            pytest.skip("its package is installed")
        answer = cli(*command, *workspace)
        sentence = answer.err.partition(": ")[2].strip().replace("\n", " ")
        assert answer.code in (1, 2)
        assert len(sentence) <= 300
        assert "SECRET" not in answer.err + answer.out
        with pytest.raises(WhalebenchError, match=said) as caught:
            folder_of(place)
        assert " ".join(str(caught.value).split()) == " ".join(sentence.split())


def test_an_absent_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    remote.file_system.cache_clear()
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingError, match=r"pip install 'whalebench\[s3\]'"):
        folder_of("s3://bucket/ws")


def test_a_reader_where_there_is_no_workspace_is_told_so(machine: Machine, url: str) -> None:
    with pytest.raises(WhalebenchError, match="There is no workspace at memory://"):
        machine("one", write=False)
    assert objects(url) == []
    system, place = remote.place_at(url)
    system.pipe_file(f"{place}/{copies.LAYOUT}", b"2\n")
    with pytest.raises(WhalebenchError, match="is laid out as 2"):
        machine("one")


def test_the_same_url_is_the_same_copy_and_other_processes_are_told_the_url(
    machine: Machine, url: str
) -> None:
    one = machine("one")
    assert check_url(f"{url}/") == url
    assert folder_of(f"{url}/") == one.root
    assert one.address == url
    assert (found := copy_of(one.runs / "a")) is not None
    assert found.root == one.root
    assert copy_of(Path("/")) is None


# --- a real protocol

SERVER = """
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
input()
"""
IMPORT = """
import os, signal, sys
import fsspec
from pathlib import Path
from whalebench.benchmarks.core.copies import Copy
from whalebench.benchmarks.core.remote import fetched_path
from whalebench.benchmarks.importing.importer import import_photos
from whalebench.benchmarks.importing.layouts import LAYOUTS
from whalebench.tests.test_object_storage import Workspace, add, folder_of
system = fsspec.filesystem("s3")
system.mkdir("seals")
system.put(sys.argv[1], "seals/source", recursive=True)
workspace = Workspace.open(folder_of("s3://seals/ws"))
place = fetched_path("s3://seals/source/table.csv", workspace.cache)
print(import_photos(LAYOUTS["csv"], place, "tiny", workspace).catalog.digest, flush=True)
whole = Copy._put
def killed(self, key, *args, **options):
    if key.endswith("record.json"):
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, key, *args, **options)
Copy._put = killed
add(workspace, "a")
"""
READ = """
import json, os, sys
from whalebench import WhalebenchError
from whalebench.benchmarks.core.record import read_predictions, read_runs
from whalebench.benchmarks.registry import load_catalog
from whalebench.tests.test_object_storage import Workspace, add, folder_of
def seen(machine, write, url="s3://seals/ws"):
    os.environ["XDG_CACHE_HOME"] = f"{sys.argv[1]}/{machine}"
    return Workspace.open(folder_of(url), write=write)
two = seen("two", False)
said = [[run.run for run in read_runs(two.runs).records], load_catalog("tiny", two).digest]
seen("one", True)
add(seen("one", True), "b")
add(two, "b", created="2026-11-30T12:00:00+00:00")
two = seen("two", False)
said += [[run.run for run in read_runs(two.runs).records], len(read_predictions(two.runs / "a"))]
said += [read_runs(two.runs).records[1].created]
for write in (False, True):
    try:
        seen("three", write, "s3://no-such-bucket/ws")
    except WhalebenchError as error:
        said.append(str(error))
print(json.dumps(said))
"""


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which s3:// leads to a server on this machine."""
    for package, extra in (("s3fs", "s3"), ("moto", "dev"), ("flask", "dev")):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'whalebench[{extra}]'")
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        host, port = server.stdout.readline().split()
        keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}
        keys |= {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_EC2_METADATA_DISABLED": "true"}
        yield dict(os.environ) | keys | {"XDG_CACHE_HOME": str(tmp_path / "one"), "NO_PROXY": "*"}
        server.kill()


def test_s3_import_kill_in_the_middle_of_a_write_and_what_others_see(
    s3: dict[str, str], source: Path, tmp_path: Path
) -> None:
    def script(text: str, argument: Path) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", text, str(argument)]
        return subprocess.run(
            words, env=s3, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
        )

    killed = script(IMPORT, source.parent)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    read = script(READ, tmp_path)
    assert read.returncode == 0, read.stderr
    before, digest, after, rows, created, *refused = json.loads(read.stdout)
    assert (before, after, rows) == ([], ["a", "b"], len(RANKS))
    assert digest == killed.stdout.strip()
    assert created.startswith("2026-11-23")  # the first of the two
    assert len(refused) == 2
    assert all("s3://no-such-bucket/ws" in each and "bucket does not exist" in each for each in refused)


def test_the_extra_and_its_test_are_declared() -> None:
    import tomllib

    settings = tomllib.loads(
        (Path(whalebench.__file__).parent / "pyproject.toml").read_text(encoding="utf-8")
    )
    extras = settings["project"]["optional-dependencies"]
    assert [word.partition(">")[0] for word in sorted(extras["s3"])] == ["fsspec", "s3fs"]
    assert set(extras["s3"]) <= set(extras["dev"])
