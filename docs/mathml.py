"""Formulas become MathML when the site is built: browsers draw it by themselves, and no script is loaded from elsewhere."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Called by mkdocs with each page, in which arithmatex has marked the formulas."""
    return _FORMULA.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    tag, opening, latex = match.groups()
    formula = convert(html.unescape(latex).strip(), display="block" if opening == "[" else "inline")
    return f'<{tag} class="formula">{formula}</{tag}>'
