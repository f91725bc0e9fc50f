"""The audit of a benchmark as a page of pairs to confirm, reject or leave, and as `rich` prints it.

The page is one file that fetches nothing; verdicts are kept in the browser and downloaded as a CSV, which
`whalebench split make --groups` and `whalebench data audit --verdicts` read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from whalebench.reports.figures import escape
from whalebench.reports.tables import facts_table, table_of

KINDS = {
    "exact": "the same pixels",
    "twin": "one picture, saved in another way",
    "crop": "a part of the other picture",
    "overlap": "parts of one picture",
    "burst": "one moment by the clock",
    "look": "one moment by its look",
}
SAID = {
    "two_names": "one individual under two names",
    "two_labels": "one image with two labels",
    "rejected": "rejected",
    "unseen": "not looked at, or unsure",
}
"""Counts of an audit's document, in words."""
TURNS = ("", "turned by 90°", "turned by 180°", "turned by 270°")
SHOWN = 12
"""Pairs that the terminal shows."""
MOST = 1000
"""Pairs that a page shows: more would be slow to open, and to look at."""


def page_pairs(document: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The pairs of an audit's document that its page shows: first what leaks, then what bears two names."""

    def order(pair: Mapping[str, Any]) -> tuple[bool, bool]:
        return not pair["leaks_in"], not (pair["two_names"] or pair["two_labels"])

    pairs = sorted(document["pairs"], key=order)
    return pairs[:MOST]


def audit_report(document: Mapping[str, Any]) -> Group:
    """What `rich` prints of an audit: counts, leaks by fold, and the first pairs."""
    facts = {"photos": document["photos"]} | {KINDS[kind]: n for kind, n in document["kinds"].items()}
    facts |= {SAID[key]: document[key] for key in SAID}
    leaks = document["leaks"]
    lines = [Text("No split has been made yet.")] if leaks is None else []
    lines += [
        Text(
            f"! fold {fold} tests on {document['leaking_photos'][fold]} photos whose other half is outside "
            f"the test ({count} pairs)",
            "yellow",
        )
        for fold, count in (leaks or {}).items()
        if count
    ]
    if leaks is not None and not lines:
        lines = [Text("No pair is torn apart by the split.")]
    if not document["parts"]:
        lines.append(Text("! Parts of one picture were not looked for: install whalebench[sift].", "yellow"))
    shown = page_pairs(document)[:SHOWN]
    rows = [{"first": pair["first"], "second": pair["second"], "what": describe(pair)} for pair in shown]
    if left := len(document["pairs"]) - len(rows):
        lines.append(Text(f"and {left:,} more pairs: write them all with --page FILE.html, or --json"))
    return Group(
        facts_table(facts, f"Audit of {document['name']}"), *([table_of(rows)] if rows else []), *lines
    )


def describe(pair: Mapping[str, Any]) -> str:
    """What two photos have in common, in words."""
    words = [KINDS[pair["kind"]]]
    if pair["seconds"] is not None:
        words.append(f"{pair['seconds']:.0f} s apart")
    elif pair["kind"] != "exact":
        words.append(f"{pair['likeness']:.2f} alike")
    if pair["shared"] is not None:
        words.append(f"{pair['shared']:.0%} shared")
    words += [word for word in (TURNS[pair["turn"] % 4], "mirrored" if pair["turn"] >= 4 else "") if word]
    if pair["two_names"] or pair["two_labels"]:
        what = "names" if pair["two_names"] else "labels"
        words.append(f"two {what}: {pair['first_identity']} and {pair['second_identity']}")
    if pair["leaks_in"]:
        words.append(f"leaks in fold {', '.join(map(str, pair['leaks_in']))}")
    return ", ".join(words)


def audit_page(document: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The page of an audit's document; `pictures` are data URIs of what `page_pairs` shows, by image."""
    shown = page_pairs(document)
    left = len(document["pairs"]) - len(shown)
    more = f" {left:,} more pairs are only in audit.json." if left else ""
    rows = [
        {name: pair[name] for name in ("first", "second", "verdict", "kind", "likeness")}
        | {name: pair[name] for name in ("first_identity", "second_identity")}
        for pair in shown
    ]
    # Within a script no text may end it, whatever the photos are called.
    data = json.dumps({"key": document["audit_digest"], "name": document["name"], "pairs": rows})
    data = data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    credit_of = document["credits"]
    sections = "".join(_section(number, pair, pictures, credit_of) for number, pair in enumerate(shown))
    return PAGE.format_map(
        {
            "title": escape(f"Audit of {document['name']}"),
            "count": f"{len(shown):,} pairs.{more}",
            "kinds": escape("; ".join(_counts(document))),
            "sections": sections,
            "data": data,
        }
    )


def _counts(document: Mapping[str, Any]) -> Iterator[str]:
    """How many pairs there are of each kind, of those of which there are any."""
    numbers = {KINDS[kind]: count for kind, count in document["kinds"].items()}
    numbers |= {SAID[key]: document[key] for key in SAID}
    yield from (f"{words}: {count:,}" for words, count in numbers.items() if count)


def _section(
    number: int, pair: Mapping[str, Any], pictures: Mapping[str, str], credit_of: Mapping[str, str]
) -> str:
    photos = "".join(
        f'<figure><img src="{escape(pictures[pair[which]])}" alt="" loading="lazy"><figcaption>'
        f"{escape(pair[which])}<br><b>{escape(pair[f'{which}_identity'] or 'no name')}</b>"
        f"{_credit(credit_of.get(pair[which], ''))}</figcaption></figure>"
        for which in ("first", "second")
    )
    buttons = "".join(
        f'<button data-verdict="{verdict}">{verdict} <kbd>{verdict[0]}</kbd></button>'
        for verdict in ("yes", "no", "unsure")
    )
    words = escape(describe(pair))
    return f'<section data-pair="{number}"><p>{words}</p>{photos}<div>{buttons}</div></section>\n'


def _credit(text: str) -> str:
    return f"<br>Photo: {escape(text)}" if text else ""


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data: blob:; \
style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 0 auto; max-width: 62em; padding: 0 1em 20em;
  background: #f7f5f0; color: #1d2b36 }}
header {{ position: sticky; top: 0; background: #f7f5f0; padding: .6em 0; border-bottom: 1px solid #e6e2d8 }}
h1 {{ font-size: 1.2em }}
section {{ padding: .7em; margin: .7em 0; border: 2px solid #e6e2d8; border-radius: 6px }}
section.current {{ border-color: #205cc8 }}
section p {{ margin: 0 0 .4em }}
figure {{ display: inline-block; margin: 0 1em .4em 0; vertical-align: top; max-width: 45% }}
img {{ max-width: 100%; display: block }}
figcaption {{ overflow-wrap: anywhere; font-size: .85em }}
button[aria-pressed=true] {{ background: #1d2b36; color: #fff }}
kbd {{ opacity: .6 }}
</style></head><body>
<h1>{title}</h1>
<p>{kinds}</p>
<header><p>{count} Do both photos show one picture or one moment? <kbd>y</kbd> yes, <kbd>n</kbd> no,
<kbd>u</kbd> unsure, <kbd>j</kbd> next, <kbd>k</kbd> back, <kbd>Backspace</kbd> takes a verdict back.
<span id="done"></span> <button id="download">Download the verdicts</button></p></header>
<main>
{sections}</main>
<script type="application/json" id="audit">{data}</script>
<script>
"use strict";
const audit = JSON.parse(document.getElementById("audit").textContent);
const key = "whalebench audit " + audit.key;
const sections = [...document.querySelectorAll("section")];
let verdicts = {{}}, current = 0;
function name(number) {{ return JSON.stringify([audit.pairs[number].first, audit.pairs[number].second]); }}
audit.pairs.forEach((pair, number) => {{ if (pair.verdict) verdicts[name(number)] = pair.verdict; }});
try {{ Object.assign(verdicts, JSON.parse(localStorage.getItem(key))); }} catch (error) {{ /* as given */ }}
function draw() {{
  sections.forEach((section, number) => {{
    section.classList.toggle("current", number === current);
    section.querySelectorAll("button").forEach(button =>
      button.setAttribute("aria-pressed", verdicts[name(number)] === button.dataset.verdict));
  }});
  document.getElementById("done").textContent =
    sections.filter((_, number) => verdicts[name(number)]).length + " of " + sections.length + " looked at.";
}}
function move(to) {{
  current = Math.max(0, Math.min(sections.length - 1, to));
  draw();
  if (sections[current]) sections[current].scrollIntoView({{block: "center"}});
}}
function decide(number, verdict) {{
  if (!sections[number]) return;
  verdicts[name(number)] = verdict;
  try {{ localStorage.setItem(key, JSON.stringify(verdicts)); }} catch (error) {{
    document.getElementById("done").textContent = "This browser keeps nothing: download before you leave."; }}
}}
function cell(value) {{
  const text = typeof value === "string" && /^'*[=+@\\t\\r-]/.test(value) ? "'" + value : String(value);
  return '"' + text.replaceAll('"', '""') + '"';
}}
function csv() {{
  const columns = ["first", "second", "verdict", "kind", "likeness", "first_identity", "second_identity"];
  const rows = audit.pairs.map((pair, number) => ({{...pair, verdict: verdicts[name(number)] || ""}}));
  return [columns.join(","), ...rows.map(row => columns.map(column => cell(row[column])).join(","))]
    .join("\\n") + "\\n";
}}
document.querySelector("main").addEventListener("click", event => {{
  const section = event.target.closest("section"), button = event.target.closest("button");
  if (!section) return;
  current = Number(section.dataset.pair);
  if (button) decide(current, button.dataset.verdict);
  draw();
}});
document.addEventListener("keydown", event => {{
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const verdict = {{y: "yes", n: "no", u: "unsure"}}[event.key];
  if (verdict) {{ decide(current, verdict); move(current + 1); }}
  else if (event.key === "j" || event.key === "ArrowDown") move(current + 1);
  else if (event.key === "k" || event.key === "ArrowUp") move(current - 1);
  else if (event.key === "Backspace") {{ decide(current, ""); draw(); }}
  else return;
  event.preventDefault();
}});
document.getElementById("download").addEventListener("click", () => {{
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], {{type: "text/csv"}}));
  link.download = audit.name + "-verdicts.csv";
  link.click();
}});
draw();
</script></body></html>
"""
