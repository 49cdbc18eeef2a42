r"""Mathematical answers, read and compared by the math-verify library, also in forms that it does not know.

A ground truth is only an expression, `\frac{1}{2}`, or a text with a `\boxed{}`, a `$...$` or a `####`. The answer of a
response is its last `\boxed{}`, or else what the library finds, what follows "the answer is", or a short response as a
whole. They are equal if the library says so, or if their texts differ only in spaces, case and formatting commands.
"""

import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

from rollout.scoring.numbers import ascii_digits, number_text

_MOST_WORDS = 8  # of a response that may be nothing but the answer
_MOST_CHARACTERS = 200


@dataclass(frozen=True)
class Answer:
    """What the library reads in a text (sympy expressions and texts), and the text itself in one form."""

    values: tuple[Any, ...]
    text: str

    def shown(self) -> str | None:
        """One text, the same for answers that are written the same way; None for an empty answer."""
        is_word = self.text.isalpha() and len(self.text) > 1
        return str(self.values[0]) if self.values and not is_word else self.text or None


@lru_cache(maxsize=64)
def truth_of(text: str) -> Answer:
    """The ground truth that `text` is or contains."""
    text = cleaned(text.rpartition("####")[2])
    boxed = _last_boxed(text)
    if boxed is None and len(_delimited(text)) == 1 and not _DELIMITED.sub("", text).strip(" ."):
        boxed = _delimited(text)[0]
    if boxed is None and _delimited(text):
        return Answer(_library(text), one_form(text))
    return Answer(_expression(text if boxed is None else boxed), one_form(text if boxed is None else boxed))


@lru_cache(maxsize=8)
def answers_of(response: str) -> list[Answer]:
    """The possible answers of a response, the likeliest first."""
    text = cleaned(response)
    if (boxed := _last_boxed(text)) is not None:
        return [Answer(_percent(boxed) or (*_library(text), *_with_letters(boxed)), one_form(boxed))]
    found = _library(text)
    stated = [whole for whole in (_stated(text), _whole(text)) if whole]
    answers = [Answer(found, "")] if found else []
    return [*answers, *map(_bare_answer, dict.fromkeys(stated))]


def are_equal(truth: Answer, answer: Answer) -> bool:
    """Whether the answer is right."""
    if (of_bases := _equal_in_bases(truth.text, answer.text)) is not None:
        return of_bases
    if truth.text and truth.text == answer.text:
        return True
    with _quiet():
        from math_verify import verify

        return bool(verify(list(truth.values), list(answer.values), allow_set_relation_comp=True, timeout_seconds=None))


def _bare_answer(text: str) -> Answer:
    """Read an answer without LaTeX; its words are not products of letters."""
    return Answer(() if len(_WORD.findall(text)) > 1 else _expression(text), one_form(text))


def _expression(text: str) -> tuple[Any, ...]:
    """What the library reads in a text that is only an expression."""
    return _percent(text) or (*_library(f"\\boxed{{{text}}}"), *_with_letters(text))


def _with_letters(text: str) -> tuple[Any, ...]:
    """What the library reads in `text` if a letter at its end is not a unit: r^2 h."""
    if not re.search(r"(?<![A-Za-z])[a-z]\s*$", text):
        return ()
    with _quiet():
        from math_verify import LatexExtractionConfig, parse

        normal = LatexExtractionConfig().normalization_config
        config = LatexExtractionConfig(normalization_config=replace(normal, units=False))
        return tuple(parse(f"\\boxed{{{text}}}", [config], fallback_mode="no_fallback", parsing_timeout=None))


def _percent(text: str) -> tuple[Any, ...]:
    """The value of 28%, which the library reads only outside of LaTeX; empty for any other expression."""
    found = _PERCENT.fullmatch(text.strip())
    if found is None or not (values := _library(f"\\boxed{{{found[1]}}}")):
        return ()
    with _quiet():
        from latex2sympy2_extended.latex2sympy2 import convert_to_pct

        return () if isinstance(values[0], str) else (convert_to_pct(values[0]),)


def _library(text: str) -> tuple[Any, ...]:
    with _quiet():
        from math_verify import parse

        # the library's own limit would use the alarm that rollout.scoring.processes needs for every scorer
        return tuple(parse(text, parsing_timeout=None))


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides the warnings of the libraries: our users cannot act on them."""
    hook = sys.unraisablehook
    for name in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        for child in list(logging.Logger.manager.loggerDict):
            if child.startswith(f"{name}."):
                logging.getLogger(child).setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = lambda _: None
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.unraisablehook = hook


_PERCENT = re.compile(r"(.*?)\s*(?:\\?%|\\text\s*\{\s*(?:percent|\\?%)\s*\}|(?<![A-Za-z])percent)\.?", re.DOTALL)
_DELIMITED = re.compile(r"(?<!\\)\$\$?(.+?)(?<!\\)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}")
_STATED = re.compile(r"(?:answer|result)\s*(?:is|are|:|=)\s*:?\s*(.+)", re.IGNORECASE)
_BASE = re.compile(r"([0-9a-z]+)_([0-9]+)")


def _delimited(text: str) -> list[str]:
    return [next(filter(None, found.groups())) for found in _DELIMITED.finditer(text)]


def _last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{}` or `\fbox{}`; up to the end of the text if it is not closed."""
    starts = list(re.finditer(r"\\f?boxed\s*\{|\\fbox\s*\{", text))
    if not starts:
        return None
    depth, start = 1, starts[-1].end()
    for position in range(start, len(text)):
        if text[position] in "{}" and text[position - 1] != "\\":
            depth += 1 if text[position] == "{" else -1
            if depth == 0:
                return text[start:position].strip()
    return text[start:].strip()


def _stated(text: str) -> str | None:
    """What follows the last "the answer is", to the end of its line or sentence."""
    found = _STATED.findall(text)
    return _bare(re.split(r"(?<=\w)\.\s|\n", found[-1])[0]) if found else None


def _whole(text: str) -> str | None:
    is_short = len(text) <= _MOST_CHARACTERS and len(re.sub(r"\\[a-z]+\s*", "", text).split()) <= 4 * _MOST_WORDS
    has_words = len(_WORD.findall(text)) > _MOST_WORDS
    return None if has_words or not is_short else _bare(text)


def _bare(text: str) -> str:
    text = text.strip().strip("*").strip()
    if len(found := _delimited(text)) == 1 and not _DELIMITED.sub("", text).strip(" .*"):
        text = found[0]
    return text.strip().removesuffix(".").strip()


def _equal_in_bases(truth: str, answer: str) -> bool | None:
    """Whether numbers with a base, 2516_8, are equal; without a base the answer's digits count. None if undecided."""
    if (wanted := _BASE.fullmatch(truth)) is None:
        return None
    if (given := _BASE.fullmatch(answer)) is None:
        return answer == wanted[1] or None
    try:
        return int(wanted[1], int(wanted[2])) == int(given[1], int(given[2]))
    except ValueError:  # digits that the base does not have, or a base above 36
        return truth == answer


_CHARACTERS = {
    "π": r"\pi ",
    "∞": r"\infty ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "±": r"\pm ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "÷": r"\div ",
    "∅": r"\emptyset ",
    "θ": r"\theta ",
    "°": r"^\circ ",
    "√": r"\sqrt",
}
_TEN = r"\s*(?:\\times|\\cdot|\*|[xX](?=\s*10))\s*10\s*\^\s*(?:\{\s*([-+]?\d{1,2})\s*\}|([-+]?\d{1,2}))(?!\d)"
_NUMBER = r"(?<![\w.,^_])(\d{1,40}(?:\.\d{1,40})?|\.\d{1,40})"
_GROUP = r"(?:\\[,;: ]|~|[\u00a0\u2007\u2008\u2009\u202f]|\{,\})"


def cleaned(text: str) -> str:
    """`text` in forms that the library knows: ASCII digits without separators between groups, no currencies."""
    text = ascii_digits(text.replace(r"\!", ""))
    for character, command in _CHARACTERS.items():
        text = text.replace(character, command)
    text = re.sub(r"\\(?:varnothing|O)(?![A-Za-z])", r"\\emptyset", text)
    text = re.sub(rf"(?<![\d.,])\d{{1,3}}(?:{_GROUP}\d{{3}})+(?!\d)", lambda found: re.sub(r"\D", "", found[0]), text)
    text = re.sub(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d/])", lambda found: found[0].replace(" ", ""), text)
    text = re.sub(r"(?<=\d)\{,\}(?=\d)", ".", text)
    text = re.sub(r"(?<![\d.,])(\d{1,3}(?:\.\d{3})+),(\d{1,2})(?![\d.,]*\d)", _of_europe, text)
    text = re.sub(r"(?<![\w$\\}])([-+])\s*\\?\$\s*(?=[\d.,]+(?![\d.,]*\s*\$))", r"\1", text)
    text = re.sub(r"\\\$|\\(?:pounds|euro|cent)(?![A-Za-z])|[\u20a0-\u20cf\u00a2-\u00a5]", "", text)
    text = text.replace("$", "") if len(re.findall(r"(?<!\\)\$", text)) == 1 else text
    text = re.sub(rf"{_NUMBER}[eE]([-+]?\d{{1,2}})(?!\w|\.\d)", _positional, text)
    text = re.sub(_NUMBER + _TEN, _positional, text)
    text = re.sub(r"(?<!\d)(\d{0,20})\.(\d{0,20})\\overline\s*\{(\d{1,20})\}", _repeating, text)
    return re.sub(r"(?<![\w.,/])(\d{1,20})\s+(\d{1,20})/(\d{1,20})(?![\w/])", _improper, text)


def _of_europe(found: re.Match[str]) -> str:
    return f"{found[1].replace('.', '')}.{found[2]}"


def _positional(found: re.Match[str]) -> str:
    exponent = next(filter(None, found.groups()[1:]))
    return number_text(Fraction(found[1]) * Fraction(10) ** int(exponent))


def _repeating(found: re.Match[str]) -> str:
    whole, fixed, period = found.groups()
    nines = int("9" * len(period)) * 10 ** len(fixed)
    value = Fraction(int(whole or 0)) + Fraction(int(fixed or 0), 10 ** len(fixed)) + Fraction(int(period), nines)
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def _improper(found: re.Match[str]) -> str:
    whole, above, below = map(int, found.groups())
    return f"{whole * below + above}/{below}" if below else found[0]


_LOOKS = [
    (re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|mathit|operatorname)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\(?:left|right|displaystyle|[bB]igg?[lr]?)(?![A-Za-z])"), ""),
    (re.compile(r"\\[dtc]frac"), r"\\frac"),
    (re.compile(r"\\[,;:! ]|\\q?quad(?![A-Za-z])|~|\\?\$"), ""),
    (re.compile(r"([_^])\{(\w)\}"), r"\1\2"),
    (re.compile(r"_\{(\d+)\}"), r"_\1"),
    (re.compile(r"\s+"), ""),
]


def one_form(text: str) -> str:
    """`text` without formatting: fonts, spaces, case, a last dot, brackets around a letter."""
    for pattern, replacement in _LOOKS:
        text = pattern.sub(replacement, text)
    text = text.strip().removesuffix(".").casefold()
    return text[1:-1] if re.fullmatch(r"\([a-z]\)", text) else text
