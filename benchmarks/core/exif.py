"""When a photo was taken, as its camera wrote it into the EXIF of the file."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from PIL import ExifTags, Image

TAKEN = (
    (ExifTags.Base.DateTimeOriginal, ExifTags.Base.OffsetTimeOriginal),
    (ExifTags.Base.DateTimeDigitized, ExifTags.Base.OffsetTimeDigitized),
)
"""Tags of the time and of its zone, the first one counts. DateTime is not among them: it is when the file was
last changed."""
FORM = re.compile(r"(\d{4})[:/-](\d\d)[:/-](\d\d)[ T](\d\d):(\d\d)(?::(\d\d))?(?:\.\d*)?", re.ASCII)
ZONE = re.compile(r"[+-](0\d|1[0-4]):?[0-5]\d|Z", re.ASCII)
UNSET = {"1904-01-01", "1970-01-01", "1980-01-01"}
"""Days from which clocks count that nobody has set."""


def date_taken(image: Image.Image) -> str:
    """The time to the second, by ISO 8601 and with its zone where EXIF says that; "" where none is believed.

    The image is opened and not yet loaded. Whatever else is wrong with its EXIF is of no matter.
    """
    try:
        exif = image.getexif()
        inner = exif.get_ifd(ExifTags.IFD.Exif)
        tags = {tag: inner.get(tag, exif.get(tag)) for pair in TAKEN for tag in pair}
    except Exception:  # a directory of tags that is broken may raise anything
        return ""
    for time, zone in TAKEN:
        if moment := _moment(_text(tags[time])):
            said = _text(tags[zone])
            return moment + (said.replace("Z", "+00:00") if ZONE.fullmatch(said) else "")
    return ""


def _text(value: object) -> str:
    """The text of a tag, which some programs write as bytes, and end with NULs."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return text.partition("\0")[0].strip() if isinstance(text, str) else ""


def _moment(text: str) -> str:
    """The time as ISO 8601; "" for none, and for that of a clock that was never set or is wrong.

    >>> _moment("2024:05:31 10:07:30"), _moment("0000:00:00 00:00:00"), _moment("2000:01:01 00:00:09")
    ('2024-05-31T10:07:30', '', '')
    """
    found = FORM.fullmatch(text)
    try:
        moment = datetime(*(int(part or 0) for part in found.groups())) if found else None  # type: ignore[arg-type]
    except ValueError:
        return ""
    if moment is None or moment > datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1):
        return ""
    # Cameras without a battery begin again with the first minute of a year.
    is_reset = (moment.month, moment.day, moment.hour, moment.minute) == (1, 1, 0, 0)
    return "" if is_reset or moment.date().isoformat() in UNSET else moment.isoformat()
