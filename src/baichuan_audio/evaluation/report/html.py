"""HTML of texts that nobody vouches for: every text is escaped, and cannot change the direction of its neighbours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def text(content: object) -> str:
    """Any text, safe as content and as the value of an attribute; control characters are shown as a replacement."""
    return escape(_CONTROL.sub("\ufffd", str(content)), quote=True)


def isolated(content: object) -> str:
    """The same in an element of its own, whose direction of writing ends with it."""
    return f"<bdi>{text(content)}</bdi>"


def breakable(name: object) -> str:
    """A name of a set, which may be broken behind its underscores and slashes."""
    return "<bdi>" + re.sub("([_/])", r"\1<wbr>", text(name)) + "</bdi>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A table of cells that are HTML already; the first column names the row. It scrolls by itself on small screens."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    title = f'<p class="note">{caption}</p>' if caption else ""  # a caption would be as wide as the table
    return (
        f'{title}<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
