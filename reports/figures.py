"""Texts as HTML holds them."""

from html import escape as escape_markup

from whalebench import visible


def escape(text: str) -> str:
    """A text as HTML holds it: no mark-up, and no character that is none there.

    >>> escape("a < b\\x00")
    'a &lt; b\\\\x00'
    """
    return escape_markup(visible(text))
