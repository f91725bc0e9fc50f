"""Templates of the pages: what they are given stays text, and their colours can be read."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from jinja2 import UndefinedError

from whalebench.reports.page.render import environment, policy, source

SCHEMES = re.findall(r":root \{(.*?)\}", source("base.css"), flags=re.S)[:2]
"""The colours in light, and in dark."""
TEXT = ("ink", "faint", "mark", "second", "third", "fourth", "fifth", "sixth", "good", "bad")


def colours(scheme: str) -> dict[str, str]:
    return dict(re.findall(r"--(\w+): #(\w{6});", scheme))


def luminance(colour: str) -> float:
    """Relative luminance after WCAG 2.2 of a colour as six hexadecimal digits."""
    parts = [int(colour[start:end], 16) / 255 for start, end in pairwise((0, 2, 4, 6))]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def rendered(template: str, **values: object) -> str:
    return environment().from_string(template).render(values)


def test_the_contrast_of_black_on_white_and_of_the_page_before() -> None:
    assert contrast("000000", "ffffff") == pytest.approx(21)
    assert contrast("8796a1", "fbfcfd") == pytest.approx(2.96, abs=0.005)


@pytest.mark.parametrize("scheme", SCHEMES, ids=["light", "dark"])
def test_text_can_be_read_on_paper_and_on_panel(scheme: str) -> None:
    shades = colours(scheme)
    assert set(shades) == {*TEXT, "paper", "panel", "line"}
    for name in TEXT:
        least = 7 if name in ("ink", "faint") else 4.5
        for ground in ("paper", "panel"):
            assert contrast(shades[name], shades[ground]) >= least, (name, ground)


def test_both_schemes_are_there() -> None:
    light, dark = map(colours, SCHEMES)
    assert luminance(light["paper"]) > luminance(light["ink"])
    assert luminance(dark["paper"]) < luminance(dark["ink"])


def test_values_are_text() -> None:
    evil = "<img src=x onerror='x'>\x1b"
    assert rendered("{{ name }}", name=evil) == "&lt;img src=x onerror=&#39;x&#39;&gt;\\x1b"
    assert "<" not in rendered("{{ data | tojson }}", data={"b": "</script>", "a": 1})
    assert rendered("{{ data | tojson }}", data={"b": 2, "a": 1}) == '{"b": 2, "a": 1}'
    assert rendered("{{ 3.5 }} {{ none }}", none=None) == "3.5 None"


def test_what_is_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        rendered("{{ absent }}")


def test_numbers_that_json_lacks_are_an_error() -> None:
    with pytest.raises(ValueError, match="JSON"):
        rendered("{{ data | tojson }}", data=float("nan"))


def test_the_policy_names_each_script_and_no_other() -> None:
    assert "script-src 'none'" in policy()
    assert len(re.findall("'sha256-[^']{44}'", policy("audit.js", "base.css"))) == 2
