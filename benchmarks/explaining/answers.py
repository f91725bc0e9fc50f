"""Whom a run answered with, and the photo of the gallery that stands beside a photo that is explained."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from whalebench.benchmarks.core.catalog import Region, regions_of
from whalebench.benchmarks.pictures import GalleryPhoto
from whalebench.benchmarks.registry import Benchmark
from whalebench.benchmarks.running.folds import NEW

CANDIDATES = tuple(f"candidate_{place}" for place in range(1, 6))


class Answer(NamedTuple):
    """The first candidate of one test photo, and who is really on it."""

    name: str
    """Be it *new*."""
    truth: str
    individual: str
    """The first candidate that is an individual; empty where none is."""
    image: str
    """A photo of that individual in train; empty where there is no such individual."""
    matched: bool
    """Whether it is that one of all its photos that stood nearest; else the run does not say which did."""

    def facts(self) -> dict[str, Any]:
        """The answer in a JSON document."""
        right = self.name == self.truth
        return {"answer": self.name, "right": right, "gallery_photo": self.image, "matched": self.matched}

    def photo(self, benchmark: Benchmark) -> GalleryPhoto:
        """The photo with its words: names are parts of their own."""
        verdict = (", right",) if self.name == self.truth else (", wrong: it is ", self.truth)
        if self.matched:
            caption: tuple[str, ...] = ("nearest photo of ", self.individual, ": ", self.image)
        elif self.image:  # which is said, or it would be taken for the one that was matched
            caption = ("any photo of ", self.individual, ", as no match is kept: ", self.image)
        else:
            caption = ("no photo to show",)
        path, region = file_of(benchmark, self.image)
        return GalleryPhoto(path, ("answer: ", self.name, *verdict), caption, region)


def find_answer(
    query: pd.Series[Any], matches: pd.Series[Any] | None, benchmark: Benchmark, fold: int
) -> Answer:
    """The answer to a test photo, by its rows of the predictions and, where there is one, of the matches."""
    name, truth = str(query[CANDIDATES[0]]), str(query["truth"])
    place = next((place for place, column in enumerate(CANDIDATES, 1) if query[column] not in ("", NEW)), 0)
    if not place:
        return Answer(name, truth, "", "", matched=False)
    individual = str(query[f"candidate_{place}"])
    # A run of a method without embeddings has no such column.
    nearest = "" if matches is None else str(matches.get(f"nearest_{place}", ""))
    image = nearest or first_in_train(benchmark, fold, individual)
    return Answer(name, truth, individual, image, matched=bool(nearest))


def first_in_train(benchmark: Benchmark, fold: int, individual: str) -> str:
    """The first photo of an individual in the train part of a fold."""
    table = benchmark.catalog.table
    of_it = set(table["image"][table["identity"] == individual])
    return next((image for image in benchmark.split.parts(fold).train if image in of_it), "")


def file_of(benchmark: Benchmark, image: str) -> tuple[str, Region | None]:
    """Where a photo is, and which part of that file it is; an empty path for no photo."""
    table = benchmark.catalog.table
    photo = table[table["image"] == image]
    return ("", None) if photo.empty else (str(photo["path"].iloc[0]), regions_of(photo)[0])
