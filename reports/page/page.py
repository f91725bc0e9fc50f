"""The page of a leaderboard, and that of one run, as one file that needs no network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from whalebench import __version__
from whalebench.benchmarks.core.progress import SILENT, Progress
from whalebench.benchmarks.core.workspace import Workspace
from whalebench.reports.board import Leaderboard
from whalebench.reports.document import board_document, looks_of
from whalebench.reports.page.galleries import Galleries
from whalebench.reports.page.render import render
from whalebench.reports.page.thumbnails import Album, Thumbnail
from whalebench.reports.page.topics import BenchmarkTopics, Topic, run_topic
from whalebench.reports.runs import without_paths
from whalebench.reports.wording import times

Photos = Literal["none", "few", "all"]
"""Which photos a page carries."""


class Page(NamedTuple):
    """What the template is given."""

    title: str
    facts: tuple[str, ...]
    sentences: tuple[str, ...]
    """What the boards come to."""
    topics: tuple[Topic, ...]
    pictures: Mapping[str, Thumbnail]
    credits: tuple[str, ...]
    version: str
    made: str

    def uris(self) -> dict[str, str]:
        """The pictures, each once, by the key under which it is shown."""
        return {key: picture.uri for key, picture in self.pictures.items()}


def board_page(
    board: Leaderboard, workspace: Workspace, photos: Photos = "few", progress: Progress = SILENT
) -> str:
    """The page of a leaderboard whose rows were read closely, with photos of its benchmarks as far as wanted.

    Thumbnails that are not in the cache are made; a photo that cannot be read is said to be absent.
    """
    document, album = board_document(board), Album(workspace.cache, progress=progress)
    galleries = Galleries(workspace, album, photos=photos)
    topics = [
        BenchmarkTopics(table, chapter, workspace, galleries).topic()
        for table, chapter in zip(board.tables, document.chapters, strict=True)
    ]
    album.make()
    notes = Topic("notes", "Notes", small=tuple(document.notes()), warnings=document.problems)
    several = len(topics) > 1
    said = [f"{topic.title}: " * several + sentence for topic in topics for sentence in topic.sentences]
    looks = sum(sum(looks_of(table).values()) for table in board.tables)
    facts = (f"{len(board.rows)} runs", f"test labels were opened {times(looks)}")
    bare = tuple(topic._replace(sentences=()) for topic in topics)
    return page_of_topics("Leaderboard", facts, tuple(said), (*bare, notes), workspace, galleries, album)


def run_page(
    board: Leaderboard, workspace: Workspace, photos: Photos = "few", progress: Progress = SILENT
) -> str:
    """The page of the one run of a leaderboard, read closely; `all` shows every test photo."""
    (row,), album = board.rows, Album(workspace.cache, progress=progress)
    galleries = Galleries(workspace, album, photos=photos)
    document = board_document(board)
    topic = run_topic(row, workspace, galleries, every=True)
    chapter = document.chapters[0]
    around = BenchmarkTopics(board.tables[0], chapter, workspace, galleries)
    topics = (
        topic._replace(topics=around.of_one_run()),
        Topic("notes", "Notes", small=tuple(document.notes())),
    )
    album.make()
    record, opened = row.record, f"test labels of the fold were opened {times(row.looks)}"
    facts = (record.benchmark, f"fold {record.fold}", f"seed {record.seed}", opened)
    return page_of_topics(f"{record.method}: one run", facts, (), topics, workspace, galleries, album)


def page_of_topics(
    title: str,
    facts: Sequence[str],
    sentences: Sequence[str],
    topics: Sequence[Topic],
    workspace: Workspace,
    galleries: Galleries,
    album: Album,
) -> str:
    """The page of these subjects, with the pictures of an album that is made, and whose they are."""
    here = [f"{folder}{os.sep}" for folder in (workspace.root, Path.home())]
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    credits = [f"Photos: {', '.join(galleries.credits)}."] if galleries.credits else []
    page = Page(
        title=title,
        facts=(made, f"whalebench {__version__}", f"workspace {workspace.root.name}", *facts),
        sentences=tuple(sentences),
        topics=tuple(_to_travel(topic, here) for topic in topics),
        pictures=album.pictures,
        credits=(*credits, *without_paths([*galleries.problems, *album.sentences], here)),
        version=__version__,
        made=made,
    )
    return render("page.html", page=page)


def _to_travel(topic: Topic, here: Sequence[str]) -> Topic:
    """The topic with the names of files alone where its sentences have their folders."""
    return topic._replace(
        sentences=tuple(without_paths(list(topic.sentences), here)),
        small=tuple(without_paths(list(topic.small), here)),
        warnings=tuple(without_paths(list(topic.warnings), here)),
        topics=tuple(_to_travel(part, here) for part in topic.topics),
    )
