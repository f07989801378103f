"""Markdown to plain text: visual structure becomes sentences."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

_FENCE = re.compile(r"^ {0,3}(?:```|~~~)")
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+")
_BULLET = re.compile(r"^[ \t]{0,20}[-*+•‣·][ \t]+(?:\[[ xX]\][ \t]+)?")
_NUMBERED = re.compile(r"^[ \t]{0,20}([0-9]{1,9})[.)][ \t]+")
_QUOTE = re.compile(r"^(?: {0,3}>[ \t]?){1,10}")
_RULE = re.compile(r"^[ \t]*(?:[-*_=][ \t]*){3,}$")
_TABLE_RULE = re.compile(r"^[ \t]*\|?[ \t]*:?--[-:| \t]*$")
_DEFINITION = re.compile(r"^ {0,3}\[[^\]\n]{1,200}\]:[ \t]+\S")
_IMAGE_OR_LINK = re.compile(
    r"!?\[([^\[\]\n]{0,500})\]\([^()\s]{0,1000}(?:\([^()\s]{0,200}\)[^()\s]{0,300})?(?:[ \t]{1,5}\"[^\"\n]{0,300}\")?\)"
)
_REFERENCE = re.compile(r"!?\[([^\[\]\n]{1,500})\]\[[^\[\]\n]{0,100}\]")
_FOOTNOTE = re.compile(r"\[\^[^\]\s]{1,40}\]")
_AUTOLINK = re.compile(r"<((?:https?://|mailto:)[^<>\s]{1,2000})>")
_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9-]{0,20}(?:[ \t][^<>\n]{0,300})?/?>|<!--[^\n]{0,2000}?-->")
_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+\-.!|<>~$%&])")
_TICKS = re.compile(r"`{1,10}")
_STARS = re.compile(r"\*+")
_UNDERSCORES = re.compile(r"(?<![A-Za-z0-9_])_{1,3}(?=\S)|(?<=[^\s_])_{1,3}(?![A-Za-z0-9_])")
_STRIKES = re.compile(r"~~")
_CLOSED = tuple(".!?。！？…:：;；,，、")


def plain_text(text: str, words_for: Callable[[str], dict[str, str]]) -> str:
    """Markdown -> one line of text. `words_for` gives a passage's language's words for stop, pause and left-out code.

    Headings, list items and table rows become sentences, a paragraph ends with a full stop if another follows;
    code blocks are replaced by a notice; of links and images the text stays. A line without marks is not changed.
    """
    blocks: list[str] = []
    paragraph: list[str] = []
    in_code = False

    def close() -> None:
        if paragraph:
            blocks.append(_join_lines(paragraph))
            paragraph.clear()

    for line in text.split("\n"):
        if _FENCE.match(line):
            if not in_code:
                close()
                blocks.append(words_for(text)["code"])
            in_code = not in_code
            continue
        if in_code or _DEFINITION.match(line):
            continue
        line = _QUOTE.sub("", line)
        if not line.strip() or _RULE.match(line) or _TABLE_RULE.match(line):
            close()
            continue
        sentence = _structure(line, words_for)
        if sentence is None:
            paragraph.append(_inline(line).strip())
        else:
            close()
            blocks.append(_closed(sentence, words_for))
    close()
    closed = [_closed(block, words_for) for block in blocks[:-1]] + blocks[-1:]
    return _join_lines([block for block in closed if block])


def _structure(line: str, words_for: Callable[[str], dict[str, str]]) -> str | None:
    """The sentence for a heading, a list item or a table row; None for a line of a paragraph."""
    if _HEADING.match(line):
        return _inline(_HEADING.sub("", line).rstrip().rstrip("#")).strip()
    if _BULLET.match(line):
        return _inline(_BULLET.sub("", line)).strip()
    numbered = _NUMBERED.match(line)
    if numbered:
        rest = _inline(line[numbered.end() :]).strip()
        return f"{numbered.group(1)}{words_for(rest)['pause']}{rest}" if rest else None
    row = line.strip()
    if row.startswith("|") and row.count("|") > 1:
        cells = [_inline(cell).strip() for cell in row.strip("|").split("|")]
        return words_for(row)["pause"].join(cell for cell in cells if cell)
    return None


def _inline(line: str) -> str:
    """A line without emphasis, links, tags and escapes."""
    line = _IMAGE_OR_LINK.sub(r"\1", line)
    line = _REFERENCE.sub(r"\1", line)
    line = _FOOTNOTE.sub("", line)
    line = _AUTOLINK.sub(r"\1", line)
    line = _TAG.sub(" ", line) if "<" in line else line
    line = _TICKS.sub("", line)
    escaped = _ESCAPE.sub(r"\1", line)
    # in a line with escapes, stars and underscores are literal
    line = _UNDERSCORES.sub("", _STARS.sub(_star, line)) if escaped == line else escaped
    return html.unescape(_STRIKES.sub("", line))


def _star(match: re.Match[str]) -> str:
    """Stars mark emphasis, except between numbers: `2 * 3`, `2*3`, `2**3`."""
    stars, text = match.group(), match.string
    before, after = text[max(0, match.start() - 2) : match.start()], text[match.end() : match.end() + 2]
    if before[-1:].isdigit() and after[:1].isdigit() and len(stars) <= 2:
        return stars
    spaced = before[1:] == " " == after[:1] and before[:1].isdigit() and after[1:].isdigit()
    return stars if spaced and stars == "*" else ""


def _closed(sentence: str, words_for: Callable[[str], dict[str, str]]) -> str:
    if not sentence or sentence.endswith(_CLOSED):
        return sentence
    return sentence + words_for(sentence)["stop"]


def _join_lines(lines: list[str]) -> str:
    """Join lines: a space between words, none between Chinese characters or after their punctuation."""
    parts: list[str] = []
    for line in lines:
        if parts and line and not (_is_wide(parts[-1][-1:]) and _is_wide(line[:1])):
            parts.append(" ")
        parts.append(line)
    return "".join(parts)


def _is_wide(character: str) -> bool:
    return bool(character) and ord(character) >= 0x2E80
