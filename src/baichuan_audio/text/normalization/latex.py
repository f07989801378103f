"""LaTeX, as language models write formulas: signs and words that the rules of numbers read."""

from __future__ import annotations

import re
from collections.abc import Mapping

_SPAN = re.compile(
    r"\\\((.{1,400}?)\\\)|\\\[(.{1,800}?)\\\]|\$\$(.{1,800}?)\$\$"
    r"|(?<![\\$0-9A-Za-z])\$(?![\s0-9]{0,9}[0-9] )(?=\S)([^$\n]{1,300}?)(?<=\S)\$(?![0-9A-Za-z$])",
    re.DOTALL,
)
_IS_FORMULA = re.compile(
    r"[\\^_=+<>]|^[-0-9]{0,4}[A-Za-z]{1,2}'?$|^[A-Za-z]\([A-Za-z]\)$|^[0-9A-Za-z]+ ?[-/] ?[0-9A-Za-z]+$"
)
_BARE = re.compile(
    r"\\(?:[dt]?frac|sqrt|times|cdot|div|leq?|geq?|neq?|approx|pm|infty|text|mathrm|alpha|beta|pi|theta)\b"
)
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mathbb|mathcal|boxed|operatorname|vec|hat|bar)\{([^{}]{0,300})\}"
)
_FRACTION = re.compile(r"\\[dt]?frac ?(?:\{([^{}]{1,200})\} ?\{([^{}]{1,200})\}|([0-9])([0-9]))")
_ROOT = re.compile(r"\\sqrt ?(?:\[([0-9a-z])\])?(?:\{([^{}]{1,200})\}|([0-9A-Za-z]))")
_RAISED = re.compile(r"\^(?:\{([^{}]{1,100})\}|([A-Za-z]|\\circ\b))")
_LOWERED = re.compile(r"_(?:\{([^{}]{1,100})\}|([0-9A-Za-z]))")
_PLACES = re.compile(r"\\(?:left|right|big|Big|displaystyle|limits|quad|qquad)(?![A-Za-z])|\\[,;:! ]|\\\\|&|~")
_LESS = re.compile(r"(?<=[0-9A-Za-z)]) ?- ?(?=[0-9A-Za-z(√])")
_MINUS = re.compile(r"(?<![0-9A-Za-z)^])-(?=[A-Za-z(√])")
_LOOSE = re.compile(r" (?=[^0-9A-Za-z ])|(?<=[^0-9A-Za-z ]) ")
_COMMAND = re.compile(r"\\([A-Za-z]{1,20})")
_SIGNS = {
    "times": "×", "cdot": "×", "div": "÷", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "neq": "≠",
    "lt": "<", "gt": ">", "approx": "≈", "pm": "±", "infty": "∞", "to": "→", "rightarrow": "→", "Rightarrow": "→",
    "implies": "→", "ldots": "…", "dots": "…", "cdots": "…", "circ": "°",
}  # fmt: skip
GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "varepsilon": "ε", "eta": "η", "theta": "θ",
    "lambda": "λ", "mu": "μ", "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ", "phi": "φ", "varphi": "φ", "psi": "ψ",
    "omega": "ω", "Gamma": "Γ", "Delta": "Δ", "Theta": "Θ", "Lambda": "Λ", "Sigma": "Σ", "Phi": "Φ", "Psi": "Ψ",
    "Omega": "Ω",
}  # fmt: skip
"""LaTeX's names of Greek letters."""


def without_formulas(text: str) -> str:
    """What is left of `text` to tell its language by."""
    return _COMMAND.sub("", _SPAN.sub("", text)) if "\\" in text or "$" in text else text


def without_latex(text: str, words: Mapping[str, str]) -> str:
    """`text` with its formulas as plain signs; amounts in dollars stay. `words`: of the text's language."""
    if "\\" not in text and "$" not in text:
        return text

    def span(match: re.Match[str]) -> str:
        content = next(part for part in match.groups() if part is not None)
        return _formula(content, words) if _IS_FORMULA.search(content.strip()) else match.group()

    lines = _SPAN.sub(span, text).split("\n")
    return "\n".join(_formula(line, words) if _BARE.search(line) else line for line in lines)


def _formula(text: str, words: Mapping[str, str]) -> str:
    for _ in range(4):  # from the innermost braces outwards
        text = _TEXT.sub(r"\1", text)
        text = _RAISED.sub(lambda match: _raised(match.group(1) or match.group(2), words), text)
        text = _LOWERED.sub(_lowered, text)
        text = _ROOT.sub(lambda match: _root(match, words), text)
        text = _FRACTION.sub(lambda match: _fraction(match, words), text)
    text = _COMMAND.sub(lambda match: _command(match.group(1)), _PLACES.sub(" ", text))
    text = re.sub(r"[{}]|\\(?=[%#&_])", "", re.sub(" {2,}", " ", text))
    text = _MINUS.sub(words["minus"], _LESS.sub(words["less"], text))
    return _LOOSE.sub("", text) if words["stop"] == "。" else text


def _lowered(match: re.Match[str]) -> str:
    below = match.group(1) or match.group(2)
    return below if below.isdigit() else f" {below}"


def _raised(power: str, words: Mapping[str, str]) -> str:
    if power in ("\\circ", "∘"):
        return "°"
    if re.fullmatch(r"[-+]?[0-9]{1,9}", power):
        return f"^{power}"
    return words["raised"].format(power)


def _root(match: re.Match[str], words: Mapping[str, str]) -> str:
    inner = match.group(2) or match.group(3)
    return f"√{inner}" if match.group(1) is None else words["nth root"].format(match.group(1), inner)


def _fraction(match: re.Match[str], words: Mapping[str, str]) -> str:
    above, below = (match.group(1) or match.group(3)).strip(), (match.group(2) or match.group(4)).strip()
    if above.isdigit() and below.isdigit():
        return f" {above}/{below} "
    return f" {words['fraction'].format(above, below)} "


def _command(name: str) -> str:
    return f" {_SIGNS[name]} " if name in _SIGNS else GREEK.get(name, f" {name} ")
