"""The layout `camtrap-dp`: a Camtrap DP data package of a camera trap study, version 1.

Observations of media name animals, boxes are shares of the photo's width and height from its upper left
corner (https://camtrap-dp.tdwg.org/data/).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.catalog import NOT_IDENTIFIED
from whalebench.benchmarks.core.files import parse_json
from whalebench.benchmarks.importing.layouts.layout import LaidOut, Layout, LayoutOptions
from whalebench.benchmarks.importing.layouts.rows import (
    Box,
    PhotoNames,
    boxes_from_shares,
    date_of,
    is_identified,
    name_images,
    table_of,
)
from whalebench.benchmarks.importing.sources import Source
from whalebench.benchmarks.importing.tables import Row, TextTable, is_number, read_table

PACKAGE = "datapackage.json"
BOX_FIELDS = ("bboxX", "bboxY", "bboxWidth", "bboxHeight")
FIELDS = {
    "media": ("mediaID", "deploymentID", "timestamp", "filePath", "fileMediatype"),
    "observations": (
        "observationID",
        "mediaID",
        "eventID",
        "observationLevel",
        "observationType",
        "scientificName",
        "individualID",
        *BOX_FIELDS,
    ),
    "deployments": ("deploymentID", "locationID", "locationName", "cameraID"),
}
"""The fields of each table that are read."""
NEEDED = {"media": ("mediaID", "filePath"), "observations": ("mediaID", "observationType", "individualID")}
"""Those without which nothing can be said."""


class Sighting(NamedTuple):
    """An observation of an animal on a photo."""

    row: Row
    medium: Row
    box: Box | None
    place: str


def read(source: Source, options: LayoutOptions) -> LaidOut:
    """One row an animal on a photo of the package; other observations are left out, and said.

    Raises WhalebenchError where there is no such package, and where it identifies no animal.
    """
    package = _package_name(source)
    folder = str(PurePosixPath(package).parent)
    description = _description(source, package)
    tables = _tables(source, package, description)
    deployed = (
        {row["deploymentID"]: row for row in tables["deployments"].rows} if "deployments" in tables else {}
    )
    counts: Counter[str] = Counter()
    sightings = _sightings(tables, counts)
    if not any(is_identified(each.row["individualID"]) for each in sightings):
        raise WhalebenchError(
            f"{source.place} identifies no animal: none of its {len(tables['observations'].rows):,} "
            f"observations is of an animal on a photo and has an individualID; fill that field."
        )
    photos = PhotoNames(source.names())
    rows = [
        _row(each, photos.find(each.medium["filePath"], folder), options)
        | _taken_by(deployed.get(each.medium.get("deploymentID", ""), {}))
        | _credits(description)
        for each in sightings
    ]
    boxed = [(index, each.box) for index, each in enumerate(sightings) if each.box]
    cells = boxes_from_shares(source, [(rows[index]["path"], box) for index, box in boxed])
    for (index, _), box_cells in zip(boxed, cells, strict=True):
        rows[index] |= box_cells
    marks = [each.row.get("observationID") or each.row["individualID"] for each in sightings]
    name_images(rows, [mark or str(number) for number, mark in enumerate(marks, 1)])
    return LaidOut(table_of(rows, [each.place for each in sightings]), tuple(_notes(counts)))


def _package_name(source: Source) -> str:
    """The name of the package's description, the uppermost one."""
    names = [name for name in source.names() if PurePosixPath(name).name == PACKAGE]
    if not names:
        raise WhalebenchError(
            f"{source.place} has no {PACKAGE}, so it is no Camtrap DP package; unpack the whole export there."
        )
    return min(names, key=lambda name: (name.count("/"), name))


def _description(source: Source, package: str) -> Mapping[str, Any]:
    """What the package says of itself; empty where that is no object."""
    try:
        content = parse_json(source.read(package))
    except ValueError as error:
        raise WhalebenchError(
            f"{package} in {source.place} is no readable JSON ({one_line(error, 80)}); export it again."
        ) from error
    return content if isinstance(content, dict) else {}


def _tables(source: Source, package: str, description: Mapping[str, Any]) -> dict[str, TextTable]:
    """The tables media and observations, and deployments where it is there."""
    paths = _resources(source, package, description)
    tables = {}
    for table, fields in FIELDS.items():
        if table not in paths:
            if table not in NEEDED:
                continue
            raise WhalebenchError(
                f"{package} in {source.place} has no resource {table!r} with a path in the package, which "
                f"Camtrap DP needs; export it again."
            )
        tables[table] = read_table(source.path(paths[table]), fields)
        absent = [field for field in NEEDED.get(table, ()) if field not in tables[table].columns]
        if absent:
            raise WhalebenchError(
                f"{paths[table]} in {source.place} has no field {absent[0]!r} and is no {table} of Camtrap "
                f"DP 1; export the package anew as version 1.0 or later."
            )
    return tables


def _resources(source: Source, package: str, description: Mapping[str, Any]) -> dict[str, str]:
    """The name of the file of each resource that is one in the source."""
    there = set(source.names())
    found = {}
    for resource in _objects(description, "resources"):
        path = resource.get("path")
        only = path[0] if isinstance(path, list) and len(path) == 1 else path
        name = str(PurePosixPath(package).parent / only) if isinstance(only, str) else ""
        if name in there:
            found[str(resource.get("name"))] = name
    return found


def _objects(description: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The objects that are listed under a key."""
    listed = description.get(key)
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def _sightings(tables: Mapping[str, TextTable], counts: Counter[str]) -> list[Sighting]:
    """The observations of animals, one for an individual on a photo, the one with a box first.

    Those that are not identified are told apart by their boxes.
    """
    media = {row["mediaID"]: row for row in tables["media"].rows}
    table = tables["observations"]
    found: dict[tuple[object, ...], Sighting] = {}
    for row, line in zip(table.rows, table.places, strict=True):
        medium = media.get(row["mediaID"], {})
        if why := _left_out(row, medium):
            counts[why] += 1
            continue
        place = f"observations, {line}"
        sighting = Sighting(row, medium, _share_box(row, place), place)
        who = row["individualID"]
        key = (row["mediaID"], who if is_identified(who) else sighting.box)
        counts["again"] += key in found
        if key not in found or (sighting.box and not found[key].box):
            found[key] = sighting
    return list(found.values())


def _left_out(row: Row, medium: Row) -> str:
    """Why an observation is no photo of an animal, "" where it is one."""
    if row["observationType"] != "animal":
        return "no animal"
    if row.get("observationLevel") == "event" or not row["mediaID"]:
        return "event"
    if not medium:
        return "no medium"
    if not medium.get("fileMediatype", "image/").startswith("image/"):
        return "no photo"
    if re.match(r"[a-z]+://", medium["filePath"], re.IGNORECASE):
        return "elsewhere"
    return ""


def _share_box(row: Row, place: str) -> Box | None:
    cells = [row.get(field, "") for field in BOX_FIELDS]
    if not any(cells):
        return None
    if not all(map(is_number, cells)) or not all(0 <= float(cell) <= 1 for cell in cells):
        shown = one_line(", ".join(cells), 60)
        raise WhalebenchError(
            f"{place} has the box {shown}, which is not bboxX, bboxY, bboxWidth and bboxHeight as shares of "
            f"the photo from 0 to 1; correct it or leave it empty."
        )
    left, top, width, height = map(float, cells)
    return left, top, width, height


def _row(sighting: Sighting, path: str, options: LayoutOptions) -> Row:
    return {
        "path": path,
        "identity": sighting.row["individualID"] or NOT_IDENTIFIED,
        "encounter": sighting.row.get("eventID", ""),
        "date": date_of(sighting.medium.get("timestamp", "")),
        "species": sighting.row.get("scientificName", "") or options.species,
    }


def _taken_by(deployment: Row) -> Row:
    """Where and with which camera the photos of a deployment were taken."""
    place = deployment.get("locationName") or deployment.get("locationID", "")
    return {"place": place, "camera": deployment.get("cameraID", "")}


def _credits(description: Mapping[str, Any]) -> Row:
    """The licence of the package's media and whose they are."""
    licences = [each for each in _objects(description, "licenses") if each.get("scope") == "media"]
    owners = [each for each in _objects(description, "contributors") if each.get("role") == "rightsHolder"]
    licence = next((each.get("title") or each.get("name") or each.get("path") for each in licences), None)
    owner = next((each.get("title") for each in owners), None)
    return {"licence": one_line(licence or "", 200), "rightsholder": one_line(owner or "", 200)}


def _notes(counts: Counter[str]) -> Iterator[str]:
    for what, sentence in {
        "no animal": "Observations of no animal, which are left out: {}.",
        "event": "Observations of events and not of photos, which are left out: {}.",
        "no medium": "Observations of a mediaID that no medium has, which are left out: {}.",
        "no photo": "Observations on videos or sounds, which are left out: {}.",
        "elsewhere": "Observations on photos at an address and not in the package, which are left out: {}.",
        "again": "Further observations of an animal on the same photo, which count once: {}.",
    }.items():
        if counts[what]:
            yield sentence.format(f"{counts[what]:,}")


EXAMPLE = """\
datapackage.json
  {"resources": [{"name": "deployments", "path": "deployments.csv"}, {"name": "media", "path": "media.csv"},
                 {"name": "observations", "path": "observations.csv"}]}
deployments.csv
  deploymentID,locationName
  d1,waterhole
media.csv
  mediaID,deploymentID,timestamp,filePath,fileMediatype
  m1,d1,2024-05-31T10:00:00Z,media/a.jpg,image/jpeg
  m2,d1,2024-06-01T10:00:00Z,media/b.jpg,image/jpeg
observations.csv
  observationID,mediaID,eventID,observationLevel,observationType,individualID,bboxX,bboxY,bboxWidth,bboxHeight
  o1,m1,e1,media,animal,ann,0.1,0.1,0.5,0.4
  o2,m2,e2,media,animal,bob,0.2,0.1,0.5,0.4
media/a.jpg
media/b.jpg
"""

LAYOUT = Layout(
    "camtrap-dp",
    "a Camtrap DP package: observations of media with an individualID, boxes in shares of the photo",
    EXAMPLE,
    read,
)
