"""The audit's page at work: its script is run by node with as much of a browser as it needs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from whalebench.benchmarks.auditing.verdicts import verdicts_in
from whalebench.benchmarks.core.audits import KINDS, Audit, Pair
from whalebench.benchmarks.core.catalog import build_catalog
from whalebench.reports.audit_page import audit_page, audit_report

NODE = shutil.which("node")
BROWSER = """
const listeners = {}, stored = JSON.parse(process.argv[2]);
let written = null, file = null;
function element(dataset, buttons = []) {
  const own = {dataset, buttons, attributes: {}, classes: new Set(), textContent: ""};
  own.classList = {toggle: (name, on) => on ? own.classes.add(name) : own.classes.delete(name)};
  own.querySelectorAll = () => buttons;
  own.setAttribute = (name, value) => own.attributes[name] = String(value);
  own.addEventListener = (event, act) => listeners[event] = act;
  own.scrollIntoView = () => {};
  return own;
}
const button = verdict => element({verdict});
const pairs = JSON.parse(process.argv[3]);
const sections = pairs.pairs.map((_, pair) => element({pair}, ["yes", "no", "unsure"].map(button)));
const byId = {audit: {textContent: process.argv[3]}, done: element({}), download: element({})};
globalThis.document = {
  getElementById: id => byId[id],
  querySelectorAll: () => sections,
  querySelector: () => ({addEventListener: (event, act) => listeners.main = act}),
  addEventListener: (event, act) => listeners[event] = act,
  createElement: () => ({click() { file = this.download; }}),
};
globalThis.localStorage = {getItem: key => stored[key] ?? null, setItem: (key, to) => stored[key] = to};
globalThis.URL.createObjectURL = blob => { written = blob; return "blob:"; };
function press(key, more = {}) { listeners.keydown({key, preventDefault() {}, ...more}); }
function push(pair, verdict) {
  const pushed = sections[pair].buttons.find(one => one.dataset.verdict === verdict);
  const up = {section: sections[pair], button: pushed};
  listeners.main({target: {closest: name => up[name]}});
}
"""
END = """
listeners.click();
written.text().then(csv => console.log(JSON.stringify({csv, file, stored, done: byId.done.textContent,
  current: sections.findIndex(one => one.classes.has("current")),
  pressed: sections.map(one => one.buttons.filter(each => each.attributes["aria-pressed"] === "true")
    .map(each => each.dataset.verdict).join()) })));
"""
PAIRS = (
    Pair("=cmd.jpg", 'a,"b".jpg', "twin", 0.8, "ann", "@bob"),
    Pair("c.jpg", "d.jpg", "exact", 1.0, "cat", "dan"),
    Pair("e.jpg", "f.jpg", "overlap", 0.7, "eve", "eve", turn=5, shared=0.4),
    Pair("g.jpg", "h.jpg", "burst", 0.0, "gus", "gus", seconds=3.0),
    Pair("i.jpg", "j.jpg", "look", 0.5, "ida", "ida"),
)


def document(**verdict_of: str) -> dict[str, Any]:
    """That of an audit of these pairs, as the auditor gives it."""
    made = Audit("ten", "0" * 64, 10, PAIRS).document()
    rows = [
        each
        | {"two_names": pair.two_names, "two_labels": pair.two_labels, "leaks_in": []}
        | {"verdict": verdict_of.get(pair.kind, "")}
        for each, pair in zip(made["pairs"], PAIRS, strict=True)
    ]
    counts = {"two_names": 1, "two_labels": 1, "rejected": 0, "unseen": 4}
    kinds = {kind: sum(pair.kind == kind for pair in PAIRS) for kind in KINDS}
    told = {"name": "ten", "photos": 10, "audit_digest": made["digest"], "leaks": None, "parts": True}
    return told | {"kinds": kinds, **counts, "pairs": rows, "credits": {}}


def page_of(told: dict[str, Any]) -> str:
    return audit_page(told, {image: "data:," for pair in PAIRS for image in pair.images})


def played(moves: str, tmp_path: Path, stored: dict[str, str] | None = None, **verdict_of: str) -> Any:
    """What the page comes to after these moves in a browser that keeps this."""
    page = page_of(document(**verdict_of))
    data, script = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    (tmp_path / "page.js").write_text(f"{BROWSER}(() => {{{script}}})();{moves}{END}")
    command = [str(NODE), str(tmp_path / "page.js"), json.dumps(stored or {}), data]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_keys_and_buttons_decide_and_the_csv_is_taken(tmp_path: Path) -> None:
    end = played(
        "press('y'); press('n'); press('u'); press('k'); press('Backspace'); press('j'); push(4, 'no');"
        "press('y', {ctrlKey: true});",
        tmp_path,
    )
    assert end["pressed"] == ["yes", "no", "", "", "no"] and end["current"] == 4
    assert end["done"] == "3 of 5 looked at." and end["file"] == "ten-verdicts.csv"
    again = played("", tmp_path, end["stored"])
    assert (again["pressed"], again["csv"]) == (end["pressed"], end["csv"])
    assert '"\'=cmd.jpg","a,""b"".jpg","yes"' in end["csv"] and '"\'@bob"' in end["csv"]
    (tmp_path / "verdicts.csv").write_text(end["csv"])
    rows = [{"image": image, "path": "", "identity": ""} for pair in PAIRS for image in pair.images]
    taken = verdicts_in(tmp_path / "verdicts.csv", build_catalog(pd.DataFrame(rows), "ten"))
    assert taken == {
        ("=cmd.jpg", 'a,"b".jpg'): "yes",
        ("c.jpg", "d.jpg"): "no",
        ("i.jpg", "j.jpg"): "no",
    }


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_verdicts_that_were_kept_are_shown_and_changed(tmp_path: Path) -> None:
    end = played("press('j'); press('n');", tmp_path, twin="yes", exact="unsure")
    assert end["pressed"] == ["yes", "no", "", "", ""]


def test_each_kind_and_what_bears_two_names_is_counted_and_named() -> None:
    from rich.console import Console

    page = page_of(document())
    for words in (
        "the same pixels: 1; one picture, saved in another way: 1; parts of one picture: 1; "
        "one moment by the clock: 1; one moment by its look: 1; one individual under two names: 1; "
        "one image with two labels: 1; not looked at, or unsure: 4",
        "0.80 alike, two names: ann and @bob",
        "the same pixels, two labels: cat and dan",
        "parts of one picture, 0.70 alike, 40% shared, turned by 90°, mirrored",
        "one moment by the clock, 3 s apart",
    ):
        assert words in page
    console = Console(width=200, record=True)
    console.print(audit_report(document() | {"parts": False}))
    text = console.export_text()
    assert "one image with two labels" in text and "install whalebench[sift]" in text
