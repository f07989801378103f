"""Mandarin syllables spelt in English phones, so that an English acoustic model can align Mandarin speech."""

from __future__ import annotations

import functools

_INITIALS = {
    "b": "B", "p": "P", "m": "M", "f": "F", "d": "D", "t": "T", "n": "N", "l": "L", "g": "G", "k": "K", "h": "HH",
    "j": "JH", "q": "CH", "x": "SH", "zh": "JH", "ch": "CH", "sh": "SH", "r": "ZH", "z": "D Z", "c": "T S", "s": "S",
    "": "",
}  # fmt: skip
_FINALS = {
    "a": "AA", "o": "AO", "e": "AH", "ai": "AY", "ei": "EY", "ao": "AW", "ou": "OW", "an": "AA N", "en": "AH N",
    "ang": "AA NG", "eng": "AH NG", "ong": "OW NG", "er": "AA R", "ê": "EH",
    "i": "IY", "ia": "Y AA", "ie": "Y EH", "iao": "Y AW", "iu": "Y OW", "ian": "Y EH N", "in": "IH N",
    "iang": "Y AA NG", "ing": "IH NG", "iong": "Y OW NG", "io": "Y AO",
    "u": "UW", "ua": "W AA", "uo": "W AO", "uai": "W AY", "ui": "W EY", "uan": "W AA N", "un": "W AH N",
    "uang": "W AA NG", "ueng": "W AH NG",
    "v": "Y UW", "ve": "Y EH", "van": "Y EH N", "vn": "Y IH N",
    "retroflex": "ER", "hiss": "IH",
}  # fmt: skip
_SYLLABIC = {"m": "M", "n": "N", "ng": "NG", "hm": "HH M", "hng": "HH NG"}
_WITHOUT_INITIAL = {
    "yi": "i", "ya": "ia", "ye": "ie", "yao": "iao", "you": "iu", "yan": "ian", "yin": "in", "yang": "iang",
    "ying": "ing", "yong": "iong", "yo": "io", "yai": "ia", "yu": "v", "yue": "ve", "yuan": "van", "yun": "vn",
    "wu": "u", "wa": "ua", "wo": "uo", "wai": "uai", "wei": "ui", "wan": "uan", "wen": "un", "wang": "uang",
    "weng": "ueng",
}  # fmt: skip


def syllable_phones(syllable: str) -> str | None:
    """English phones (ARPAbet) of a pinyin syllable without tone ("lv" for lü); None if it is no syllable."""
    if syllable in _SYLLABIC:
        return _SYLLABIC[syllable]
    if syllable in _WITHOUT_INITIAL:
        return _FINALS[_WITHOUT_INITIAL[syllable]]
    initial = next((s for s in (syllable[:2], syllable[:1]) if s in _INITIALS), "")
    final = syllable[len(initial) :]
    if initial in ("j", "q", "x") and final.startswith("u"):
        final = "v" + final[1:]
    if final == "i" and initial in ("zh", "ch", "sh", "r"):
        final = "retroflex"
    elif final == "i" and initial in ("z", "c", "s"):
        final = "hiss"
    elif final == "ue":  # lue, nue: spelt without the dots
        final = "ve"
    if final not in _FINALS:
        return None
    return f"{_INITIALS[initial]} {_FINALS[final]}".strip()


@functools.cache
def all_syllables() -> dict[str, str]:
    """Every combination that can be pronounced; more than Mandarin has, which does no harm."""
    spellings = [initial + final for initial in _INITIALS for final in (*_FINALS, "ue") if final.isascii()]
    spellings += [*_WITHOUT_INITIAL, *_SYLLABIC]
    phones = {spelling: syllable_phones(spelling) for spelling in spellings}
    return {spelling: value for spelling, value in phones.items() if value}
