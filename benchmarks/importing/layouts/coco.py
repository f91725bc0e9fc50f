"""The layout `coco`: a COCO JSON, or MegaDetector's, with the photos that it names.

COCO: a box is [x, y, width, height] in pixels from the upper left corner, keypoints are x, y, v with v = 0
for one that is not there (https://cocodataset.org/#format-data).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from whalebench import WhalebenchError, one_line
from whalebench.benchmarks.core.files import parse_json
from whalebench.benchmarks.core.store import photo_sizes
from whalebench.benchmarks.importing.layouts import megadetector
from whalebench.benchmarks.importing.layouts.layout import LaidOut, Layout, LayoutOptions
from whalebench.benchmarks.importing.layouts.rows import (
    PARTS,
    PhotoNames,
    box_cells,
    date_of,
    four_numbers,
    is_plain,
    is_unknown,
    name_images,
    number_cell,
    table_of,
)
from whalebench.benchmarks.importing.sources import Source
from whalebench.benchmarks.importing.tables import Row

KEYS: dict[str, tuple[str, ...]] = {
    "identity": ("individual_id", "identity", "name"),
    "encounter": ("encounter", "encounter_id", "seq_id"),
    "viewpoint": ("viewpoint", "orientation"),
    "date": ("date", "datetime", "date_captured"),
    "species": ("species",),
}
"""By which keys an annotation, its attributes or else its image say a column, the first one counts."""
CATEGORY = "category"
"""What `--column identity=category` calls the name of an annotation's category."""
NO_SPECIES = {"animal", "animals", "object"}
"""Names of categories that name no species."""
FILES = 100
"""The most .json files that are looked into."""


class Document(NamedTuple):
    """A JSON file of the source, read."""

    name: str
    content: Any


class Context(NamedTuple):
    """What is needed to read an annotation: its file's images and categories, and the names of photos."""

    document: Document
    images: Mapping[Any, Mapping[str, Any]]
    categories: Mapping[Any, Mapping[str, Any]]
    photos: PhotoNames
    keys: Mapping[str, tuple[str, ...]]


def read(source: Source, options: LayoutOptions) -> LaidOut:
    """One row an annotation; photos without one are left out, and said.

    Raises WhalebenchError where no JSON of the source is COCO's or MegaDetector's, where several are that are
    not the parts of one split, and where no annotation names an individual.
    """
    documents = _documents(source)
    if megadetector.is_detections(documents[0].content):
        return megadetector.read(source, documents[0].name, documents[0].content, options)
    return _laid_out(source, documents, options)


def _documents(source: Source) -> list[Document]:
    names = [name for name in source.names() if name.lower().endswith(".json")]
    if len(names) > FILES:
        raise WhalebenchError(
            f"{source.place} has {len(names):,} .json files, but COCO keeps the annotations of all photos in "
            f"one; leave only that one there."
        )
    found = [Document(name, content) for name in names if _is_known(content := _parsed(source, name))]
    if not found:
        raise WhalebenchError(
            f"{source.place} has no COCO file: none of its {len(names)} .json files has images and "
            f"annotations, or images with detections as MegaDetector writes them."
        )
    if len(found) > 1 and len({part_of(document.name) for document in found} - {""}) < len(found):
        shown = " and ".join(one_line(document.name, 60) for document in found[:2])
        raise WhalebenchError(
            f"{source.place} has {len(found)} files of annotations, {shown}, that are not train, valid and "
            f"test of one split by their names; leave one of them there."
        )
    return found


def _parsed(source: Source, name: str) -> Any:
    try:
        return parse_json(source.read(name))
    except ValueError as error:
        raise WhalebenchError(
            f"{name} in {source.place} is no JSON that can be read ({one_line(error, 80)}); write it again."
        ) from error


def _is_known(content: Any) -> bool:
    is_coco = isinstance(content, dict) and all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    )
    return is_coco or megadetector.is_detections(content)


def part_of(name: str) -> str:
    """The part of a split that a file's name says: train, valid, test, or "" for none.

    >>> part_of("annotations/instances_val2017.json"), part_of("photos.json")
    ('valid', '')
    """
    words = "".join(
        letter if letter.isalpha() else " " for letter in PurePosixPath(name).stem.casefold()
    ).split()
    return next((PARTS[word] for word in words if word in PARTS), "")


def _laid_out(source: Source, documents: list[Document], options: LayoutOptions) -> LaidOut:
    photos, keys = PhotoNames(source.names()), _keys(options)
    counts: Counter[str] = Counter()
    rows: list[Row] = []
    marks, places, sizes = [], [], {}
    for document in documents:
        context = _context(document, photos, keys)
        annotations = _dictionaries(document, "annotations")
        _check_names(context, annotations, options)
        part = part_of(document.name) if len(documents) > 1 else ""
        drawn = {annotation.get("image_id") for annotation in annotations}
        counts["blank"] += sum(each not in drawn for each in context.images)
        for number, annotation in enumerate(annotations, 1):
            if row := _row(context, annotation, number, counts):
                rows.append(row | {"split": part, "species": row["species"] or options.species})
                marks.append(f"{part}{annotation.get('id', number)}")
                places.append(_place(document, annotation, number))
                sizes[row["path"]] = _said_size(context.images[annotation["image_id"]])
    if not rows:
        raise WhalebenchError(
            f"{documents[0].name} in {source.place} has no annotation that can be used; see that its "
            f"annotations name an image_id and an individual."
        )
    name_images(rows, marks)
    return LaidOut(table_of(rows, places), (*_notes(counts), *_other_sizes(source, sizes)))


def _keys(options: LayoutOptions) -> dict[str, tuple[str, ...]]:
    unread = sorted(set(options.columns) - set(KEYS))
    if unread:
        raise WhalebenchError(
            f"The column {unread[0]!r} cannot be chosen in a COCO file, only {', '.join(KEYS)}; leave it out."
        )
    return {**KEYS, **{column: (key,) for column, key in options.columns.items()}}


def _dictionaries(document: Document, key: str) -> list[Mapping[str, Any]]:
    values = document.content.get(key) or []
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise WhalebenchError(
            f"{document.name} has {key} that are no list of objects, as COCO has them; write it again."
        )
    return values


def _context(document: Document, photos: PhotoNames, keys: Mapping[str, tuple[str, ...]]) -> Context:
    images, categories = (
        _by_id(document, key, _dictionaries(document, key)) for key in ("images", "categories")
    )
    return Context(document, images, categories, photos, keys)


def _by_id(document: Document, key: str, values: Iterable[Mapping[str, Any]]) -> dict[Any, Mapping[str, Any]]:
    found: dict[Any, Mapping[str, Any]] = {}
    for value in values:
        mark = value.get("id")
        if not isinstance(mark, int | str) or mark in found:
            why = "twice" if isinstance(mark, int | str) else "which is no number or text"
            raise WhalebenchError(
                f"{document.name} has the id {one_line(repr(mark), 40)} among its {key}, {why}; give each "
                f"its own."
            )
        found[mark] = value
    return found


def _check_names(context: Context, annotations: Iterable[Mapping[str, Any]], options: LayoutOptions) -> None:
    """Refuses a file in which nothing says who the animals are, and a key that the user named in vain."""
    absent = [
        column
        for column in ("identity", *options.columns)
        if not any(_text(context, annotation, column) for annotation in annotations)
    ]
    if absent:
        keys = " or ".join(context.keys[absent[0]])
        raise WhalebenchError(
            f"No annotation of {context.document.name} says its {absent[0]} as {keys}; name the key that "
            f"does as --column {absent[0]}=KEY, or --column identity=category where these are individuals."
        )


def _text(context: Context, annotation: Mapping[str, Any], column: str) -> str:
    """What an annotation says of a column by the first of its keys that is there, "" for nothing."""
    attributes = annotation.get("attributes")
    image = context.images.get(_hashable(annotation.get("image_id")), {})
    # An image's name is its file's, and says nobody's identity unless an annotation says none of its own.
    places: list[Any] = [annotation, attributes if isinstance(attributes, dict) else {}, image]
    for key in context.keys[column]:
        if key == CATEGORY and column == "identity":
            return _category(context, annotation)
        for place in places[:2] if (column, key) == ("identity", "name") else places:
            value = place.get(key)
            if value is not None and isinstance(value, str | int | float) and str(value).strip():
                return str(value).strip()
    return ""


def _category(context: Context, annotation: Mapping[str, Any]) -> str:
    category = context.categories.get(_hashable(annotation.get("category_id")), {})
    return str(category.get("name") or "").strip()


def _hashable(value: object) -> object:
    return value if isinstance(value, int | str) else None


def _place(document: Document, annotation: Mapping[str, Any], number: int) -> str:
    return f"{document.name}, annotation {one_line(annotation.get('id', number), 40)}"


def _row(context: Context, annotation: Mapping[str, Any], number: int, counts: Counter[str]) -> Row | None:
    """The cells of an annotation, or None, counted, where it is of a crowd, of no photo or of nobody."""
    place = _place(context.document, annotation, number)
    image = context.images.get(_hashable(annotation.get("image_id")))
    identity = _text(context, annotation, "identity")
    left_out = {
        "no image": image is None,
        "crowd": annotation.get("iscrowd") == 1,
        "nobody": is_unknown(identity),
    }
    if image is None or any(left_out.values()):
        counts[next(why for why, is_so in left_out.items() if is_so)] += 1
        return None
    file_name = image.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        raise WhalebenchError(f"{place} is of an image without a file_name; give the image one.")
    folder = str(PurePosixPath(context.document.name).parent)
    box = four_numbers(annotation.get("bbox"), place)
    counts["outlines"] += bool(annotation.get("segmentation"))
    said = {column: _text(context, annotation, column) for column in KEYS}
    counts["dates"] += said["date"] not in ("", "0") and not date_of(said["date"])
    row = said | {"path": context.photos.find(file_name, folder), "date": date_of(said["date"])}
    row["species"] = said["species"] or _species(context, annotation)
    return row | (box_cells(box) if box else {}) | dict(_landmarks(context, annotation, place))


def _species(context: Context, annotation: Mapping[str, Any]) -> str:
    """The name of the category, where that is no individual and no animal whatever."""
    name = _category(context, annotation)
    is_individual = CATEGORY in context.keys["identity"]
    return "" if is_individual or name.casefold() in NO_SPECIES else name


def _landmarks(context: Context, annotation: Mapping[str, Any], place: str) -> Iterator[tuple[str, str]]:
    values = annotation.get("keypoints") or []
    category = context.categories.get(_hashable(annotation.get("category_id")), {})
    names = category.get("keypoints") or []
    if not values:
        return
    if not isinstance(values, list) or not isinstance(names, list) or len(values) != 3 * len(names):
        raise WhalebenchError(
            f"{place} has keypoints that are not x, y, v for each name in the keypoints of its category; "
            f"name them there, or leave them out."
        )
    if not all(map(is_plain, values)):
        raise WhalebenchError(f"{place} has keypoints that are not numbers; write x, y, v for each of them.")
    for name, x, y, visible in zip(names, values[::3], values[1::3], values[2::3], strict=True):
        if visible:
            yield f"{name}_x", number_cell(x)
            yield f"{name}_y", number_cell(y)


def _said_size(image: Mapping[str, Any]) -> tuple[Any, Any]:
    return image.get("width"), image.get("height")


def _other_sizes(source: Source, said: Mapping[str, tuple[Any, Any]]) -> Iterator[str]:
    """A note on the photos that are not of the size for which the file's boxes were drawn."""
    there = set(source.names())
    photos = [name for name, size in said.items() if all(map(is_plain, size)) and name in there]
    sizes = photo_sizes([source.path(name) for name in photos])
    others = [(name, size) for name, size in zip(photos, sizes, strict=True) if size and size != said[name]]
    if others:
        name, (width, height) = others[0]
        wide, high = said[name]
        yield (
            f"Photos of another size than the file says, so that its boxes may not fit: {len(others):,}, "
            f"first {one_line(name, 60)} of {width}x{height} pixels, said to be {wide}x{high}."
        )


SENTENCES = {
    "blank": "Photos without an annotation, which are left out: {}.",
    "no image": "Annotations of an image_id that no image has, which are left out: {}.",
    "crowd": "Annotations of a crowd (iscrowd), which are left out: {}.",
    "nobody": "Annotations of an animal that is not identified, which are left out: {}.",
    "outlines": "Outlines (segmentation) that are not read, give masks as image files in a table: {}.",
    "dates": "Dates that are none of ISO 8601 and are left out: {}.",
}


def _notes(counts: Counter[str]) -> Iterator[str]:
    return (sentence.format(f"{counts[what]:,}") for what, sentence in SENTENCES.items() if counts[what])


EXAMPLE = """\
annotations.json
  {"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
   "categories": [{"id": 1, "name": "zebra"}],
   "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "name": "ann", "bbox": [4, 3, 20, 10]},
                   {"id": 2, "image_id": 2, "category_id": 1, "name": "bob", "bbox": [8, 5, 20, 10]}]}
a.jpg
b.jpg
"""

LAYOUT = Layout(
    "coco",
    "a COCO JSON, boxes as x, y, width, height in pixels; or MegaDetector's JSON with folders of individuals",
    EXAMPLE,
    read,
    takes_columns=True,
)
