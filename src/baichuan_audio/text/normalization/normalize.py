"""`normalize_for_speech`: a text as it is read aloud."""

from __future__ import annotations

import re
import unicodedata

from ..language import CJK, LATIN, language_code, language_of
from ..user_input import NARROW
from .languages import ENGLISH, MANDARIN, Language
from .latex import without_formulas, without_latex
from .markdown import plain_text
from .numbers import numbers_to_words

_NEAR = 24  # characters on each side that determine the language of a number
_JOINTS = "_-+~/×=<>≥≤±"  # characters that join a number to adjacent letters
_MARKED_MANDARIN = re.compile(rf"^[^{LATIN}]*[，。！？；：、][^{LATIN}]*$")
_NAME = re.compile(r"(?:[a-z]?[A-Z][A-Za-z]*(?: |$)){1,3}")
_LETTER = re.compile(rf"[{LATIN}]|([{CJK}])")
_WIDE = re.compile(rf"[{CJK}]")
_NOT_ASCII = re.compile(r"[^\x20-\x7e\n]")
_URL = re.compile(r"(?<![A-Za-z0-9])(?:(?:https?|ftp)://|www\.)[^\s<>\"'，。！？；：、（）()\[\]{}]{1,2000}")
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])(?:mailto:)?([A-Za-z0-9._%+-]{1,64})@([A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8})"
)
_HOST = re.compile(
    r"(?<![A-Za-z0-9@./-])((?:[A-Za-z0-9-]{1,63}\.){1,5}(?:com|org|net|edu|gov|io|cn|ai|dev|app|info)(?:\.[a-z]{2})?)"
    r"(?![A-Za-z0-9@-])(?:/[^\s<>\"'，。！？；：、（）()\[\]{}]{0,2000})?"
)
_FILE = re.compile(
    r"(?<![A-Za-z0-9_./-])([A-Za-z0-9_-]{1,64})\.(html?|pdf|txt|md|csv|json|ya?ml|xml|py|js|css|zip|exe|png|jpe?g|gif|mp[34]|wav"
    r"|docx?|xlsx?|pptx?)(?![A-Za-z0-9])"
)
_LOOSE_SPACE = re.compile(
    rf"(?<=[{CJK}，。！？；：、]) (?=[-+]?[$€£¥]?[0-9])"
    rf"|(?:(?<=[0-9])|(?<=[0-9][%‰°])|(?<=[0-9]°C)) (?=[{CJK}，。！？；：、])"
)
_WIDE_COLON = re.compile(r"(?<=[0-9])：(?=[0-9])")
_LEADING_MARKS = re.compile(r"^(?:[-+•‣·] )+")  # would be parsed as a list in a second pass
_SENTENCE_END = re.compile(r"[。！？!?]|\. ")
_SIGNS = re.compile(r"/+|(?<= )[<>](?= )|=+|&+|(?<![A-Za-z])#|[@<>|\\*_^~`\[\]{}]")
_SPACES = re.compile(r"[ \t\u00a0\u2000-\u200a\u202f\u3000]+")
_SPACE_BEFORE_MARK = re.compile(
    rf" +(?=[,.;:!?)，。！？；：、）](?:[^0-9A-Za-z]|$))|(?<=[，。！？；：、（]) +(?=[{CJK}])"
)
_EQUIVALENT_SIGNS = {
    "℃": "°C", "℉": "°F", "º": "°", "˚": "°", "−": "-", "‐": "-", "‑": "-", "～": "~", "∼": "~", "％": "%", "￥": "¥",
    "＄": "$", "￠": "¢", "￡": "£", "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "⅓": " 1/3", "⅔": " 2/3", "㎡": "m²",
    "㎥": "m³", "㎞": "km", "㎏": "kg", "㎝": "cm", "㎜": "mm", "㎎": "mg", "㏄": "mL", "µ": "μ", "№": "No. ",
    "→": ", ", "➔": ", ", "⇒": ", ", "∶": ":", "∕": "/", "⁄": "/", "∗": "*",
}  # fmt: skip
_ROMAN = {chr(first + number): str(number + 1) for first in (0x2160, 0x2170) for number in range(12)}
_CIRCLED = {chr(0x2460 + number): f"{number + 1}、" for number in range(20)}
_SUBSCRIPTS = {chr(0x2080 + digit): str(digit) for digit in range(10)}
_REPLACED = NARROW | str.maketrans(_EQUIVALENT_SIGNS | _ROMAN | _CIRCLED | _SUBSCRIPTS)


def normalize_for_speech(text: str, language: str | None = None) -> str:
    """`text` as it is read aloud: no Markdown, no emoji, addresses and numbers in words. Never raises.

    language: "en" or "zh" for number words; None chooses by the letters around each number. Of a web address the host
    is read. Ordinary text without numbers is not changed, so a second pass has no effect. The time is linear in the
    length of the text.
    """
    fixed = _named(language)
    text = _clean(text)
    prose = without_formulas(text)
    whole = MANDARIN if language_of(prose) == "zh" or _MARKED_MANDARIN.search(prose) else ENGLISH
    text = without_latex(text, (fixed or whole).words)
    text = plain_text(text, lambda passage: (fixed or _language_of(passage, whole)).words)

    def pick(match: re.Match[str]) -> Language:
        return fixed or _around(match, whole)

    text = _EMAIL.sub(lambda match: _email(match, pick(match)), text)
    text = _URL.sub(lambda match: _url(match, pick(match)), text)
    text = _FILE.sub(lambda match: match.group(1) + pick(match).words["dot"] + match.group(2), text)
    text = _HOST.sub(lambda match: _host(match.group(1), pick(match)), text)
    text = numbers_to_words(_LOOSE_SPACE.sub("", text), pick)
    text = _SIGNS.sub(lambda match: _sign(match, pick(match)), text)
    text = _SPACE_BEFORE_MARK.sub("", _SPACES.sub(" ", text)).strip()
    return _LEADING_MARKS.sub("", text)


def _named(language: str | None) -> Language | None:
    return {"zh": MANDARIN, "en": ENGLISH, None: None}[language_code(language)]


def _language_of(passage: str, otherwise: Language) -> Language:
    return _named(language_of(passage)) or otherwise


def _around(match: re.Match[str], otherwise: Language) -> Language:
    """The language of the nearest letter in the sentence of a match; for a tie or none, that of the text.

    Letters that touch a figure in a Chinese sentence are part of a name (E100), and the figure is read in Chinese.
    """
    before = _SENTENCE_END.split(match.string[max(0, match.start() - _NEAR) : match.start()])[-1][::-1]
    after = _SENTENCE_END.split(match.string[match.end() : match.end() + _NEAR], maxsplit=1)[0]
    before, after = before.lstrip(_JOINTS), after.lstrip(_JOINTS)
    hits = [(hit.start(), hit.group(1)) for hit in (_LETTER.search(before), _LETTER.search(after)) if hit]
    least = min((distance for distance, _ in hits), default=0)
    nearest = {wide is not None for distance, wide in hits if distance == least}
    if least == 0 and (_WIDE.search(before) or _WIDE.search(after)):
        return MANDARIN
    if len(nearest) != 1 or (otherwise is MANDARIN and _in_a_name(before[::-1], after)):
        return otherwise
    return MANDARIN if nearest.pop() else ENGLISH


def _in_a_name(before: str, after: str) -> bool:
    """Whether all Latin words around a number are capitalised and few: 华为Mate 60 Pro."""
    first = re.split(rf"[^{LATIN} ]", before)[-1].strip()
    last = re.split(rf"[^{LATIN} ]", after, maxsplit=1)[0].strip()
    return all(_NAME.fullmatch(part) for part in (first, last) if part)


def _clean(text: str) -> str:
    """Unify line ends, digits and signs; remove control characters and emoji."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    text = _WIDE_COLON.sub(":", text)
    return _NOT_ASCII.sub(_character, text.translate(_REPLACED))


def _character(match: re.Match[str]) -> str:
    character = match.group()
    kind = unicodedata.category(character)
    if character == "°" or kind[0] in "LP" or kind in ("Mn", "Mc", "Sc", "Sm"):
        return "" if "\ufe00" <= character <= "\ufe0f" or character == "\u20e3" else character
    if kind == "Nd":
        return str(unicodedata.decimal(character))
    if kind in ("No", "Nl"):
        return character
    between = match.string[match.start() - 1 : match.start()] + match.string[match.end() : match.end() + 1]
    return "" if kind in ("Cf", "Me") or len(_WIDE.findall(between)) == 2 else " "


def _email(match: re.Match[str], language: Language) -> str:
    words = language.words
    name = "".join(words.get({".": "dot"}.get(c, c), c) if not c.isalnum() else c for c in match.group(1))
    return _spelt(name, language) + words["at"] + _host(match.group(2), language)


def _url(match: re.Match[str], language: Language) -> str:
    address = match.group()
    kept = address.rstrip(".,;:!?-")
    host = re.split(r"[/?#:]", kept.partition("://")[2] or kept, maxsplit=1)[0]
    return _host(host.rpartition("@")[2], language) + address[len(kept) :]


def _host(host: str, language: Language) -> str:
    host = host.removeprefix("www.").strip(".")
    return language.words["dot"].join(_spelt(part, language) for part in host.split(".") if part)


def _spelt(name: str, language: Language) -> str:
    """Part of an address with longer numbers digit by digit."""
    space = "" if language is MANDARIN else " "
    return re.sub("[0-9]{3,}", lambda number: f"{space}{language.digits(number.group())}{space}", name).strip()


def _sign(match: re.Match[str], language: Language) -> str:
    sign = match.group()
    name = {"&": "and", "@": "at", "=": "equals", "<": "<", ">": ">"}.get(sign[0])
    around = match.string[max(0, match.start() - 1) : match.start()] + match.string[match.end() : match.end() + 1]
    if name in ("<", ">") and around != "  ":
        name = None
    return language.words[name] if name else " "
