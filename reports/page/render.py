"""The templates of the pages: what they are given is only ever text, and a page fetches nothing."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from whalebench import visible

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src {scripts}; base-uri 'none'; form-action 'none'"
)
"""What a page may load: nothing from elsewhere, and no script but its own, so that no name can act as one."""


def render(template: str, **values: Any) -> str:
    """The page that this template of `templates/` makes of these values; texts among them are escaped."""
    return environment().get_template(template).render(values)


@cache
def environment() -> Environment:
    """Where templates are found and what they can call.

    `{{ value }}` is text, with control characters as escapes; an undefined name is an error; `value | tojson`
    is JSON that may stand within a script, in the order given. `source(name)` is a style or script as it is
    in its file, and `policy(name, ...)` the content security policy under which only those scripts run, each
    of them alone in its `<script>`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    made.policies["json.dumps_kwargs"] = {"allow_nan": False}
    made.globals |= {"source": source, "policy": policy}
    return made


def source(name: str) -> Markup:
    """A style or script of `templates/`, to be put into a page as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704 (a file of this package)


def policy(*scripts: str) -> str:
    """The content security policy of a page with these scripts and no other."""
    digests = [hashlib.sha256(source(name).encode()).digest() for name in scripts]
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return POLICY.format(scripts=allowed or "'none'")


def _shown(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
