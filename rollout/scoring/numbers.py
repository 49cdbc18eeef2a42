r"""The numbers in a text, in the forms that people, models and LaTeX write them.

-$5   1,234.50   1,00,000   12 000   9{,}500   1.234,56   1'000   1_000   .5   5.   28%   25 cm^2
1/2   1 1/2   \frac{1}{2}   1½   2.5e-6   2.5 \times 10^{-6}   10^6   １２   −5
"""

import re
import unicodedata
from fractions import Fraction

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_DASHES = dict.fromkeys(
    map(ord, "\N{MINUS SIGN}\N{EN DASH}\N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{SMALL HYPHEN-MINUS}"), "-"
)
_CHARACTERS = {**_FULL_WIDTH, **_DASHES, 0x2044: "/", 0x2215: "/", 0x00D7: "*", 0x22C5: "*", 0x00B7: "*"}

_SPACES = " \u00a0\u2007\u2008\u2009\u202f"
_GROUPS = re.compile(rf"(?<![\d.,])\d{{1,3}}(?:([{_SPACES}'\u2019\u02bc_])\d{{3}})(?:\1\d{{3}})*(?!\d)")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{\s*([-+]?[\d.,]+)\s*\}|(\d))\s*(?:\{\s*([\d.,]+)\s*\}|(\d))")
_SUPERSCRIPT = re.compile("(?<=\\d)[\u207b\u207a]?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")

_LATEX = [
    (re.compile(r"\\!"), ""),
    (re.compile(r"\\[,;: ]|\\q?quad(?![A-Za-z])|~"), "\u2009"),
    (re.compile(r"\\([$%&#_])"), r"\1"),
    (re.compile(r"(?<=\d)\{,\}(?=\d{3}(?!\d))"), ","),
    (re.compile(r"(?<=\d)\{,\}(?=\d)"), "."),
    (re.compile(r"\\(?:text|mathrm|mbox|mathbf|textbf|mathit|textit|operatorname)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\(?:times|cdot|ast)(?![A-Za-z])"), "*"),
    (re.compile(r"\^\s*\{\s*([-+]?\d+)\s*\}"), r"^\1"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?"), ""),
]
_CURRENCY = (
    r"(?:US|HK|NZ|[AC])?[$\u20a0-\u20cf\u00a2-\u00a5\u0e3f]|\\(?:pounds|euro|yen)\b"
    r"|\b(?:USD|EUR|GBP|INR|JPY|CNY|CHF|Rs\.?)"
)
_NOISE = [
    (re.compile(rf"(?:{_CURRENCY})\s*(?=[-+]?\.?\d)"), ""),
    (re.compile(r"(?<=[=({])\s*([-+])\s+(?=[\d.])"), r"\1"),
    (re.compile(r"(?<=[^\W\d_])\^[-+]?\d+"), ""),  # cm^2
    (re.compile(r"(?<![^\W\d_])([kcdm]?m|ft|in|yd|mi)[23](?!\w)"), r"\1"),  # cm2
    (re.compile(r"(?<=\w)_\{?\w{1,8}\}?"), ""),  # of a base, of a variable
]

_DIGITS = r"(?:\d+(?:[.,]\d+)*|(?<![\w.])\.\d+)"
_NUMBER = re.compile(
    rf"""(?P<sign>(?<![\d)\]}}])[-+])?
    (?: (?<![\d/])(?P<whole>\d{{1,20}})\s+(?P<part>\d{{1,20}})/(?P<parts>\d{{1,20}})(?![\d/])
      | (?<![\d/])(?P<above>{_DIGITS})\ ?/\ ?(?P<below>{_DIGITS})(?![\d/])
      | (?P<digits>{_DIGITS})
        (?: \s*[*xX]\s*10\^(?P<power_of_ten>[-+]?\d{{1,3}})(?!\d)
          | [eE](?P<exponent>[-+]?\d{{1,3}})(?![\dA-Za-z])
          | \^(?P<power>[-+]?\d{{1,3}})(?!\d) )? )""",
    re.VERBOSE,
)
_TAIL, _MARGIN = 2000, 500  # characters; the margin may begin within a number
_MOST_DIGITS = 300  # of a number that is read, or computed as a power


def last_number(text: str) -> Fraction | None:
    """The last number in `text`; None if there is none. Percent signs, currencies and units are ignored."""
    if len(text) > 2 * _TAIL and (value := _last(text[-_TAIL:], _MARGIN)) is not None:
        return value  # reading the beginning of a long text would take too long
    return _last(text, 0)


def _last(text: str, begin: int) -> Fraction | None:
    """The last number that starts at `begin` or after it."""
    for found in reversed(list(_NUMBER.finditer(plain(text)))):
        if found.start() < begin:
            return None
        value = _value(found)
        if value is not None:
            return -value if found["sign"] == "-" else value
    return None


def number_text(value: Fraction) -> str:
    """The number as text: 40, 0.5, or 1/3 if its decimals do not end. Equal numbers have the same text."""
    twos, fives, rest = 0, 0, value.denominator
    while rest % 2 == 0:
        twos, rest = twos + 1, rest // 2
    while rest % 5 == 0:
        fives, rest = fives + 1, rest // 5
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = max(twos, fives)
    scaled = str(abs(int(value * 10**digits))).rjust(digits + 1, "0")
    whole, part = scaled[: len(scaled) - digits], scaled[len(scaled) - digits :]
    return f"{'-' if value < 0 else ''}{whole}{'.' if part else ''}{part}"


def plain(text: str) -> str:
    """`text` with its numbers in ASCII: no LaTeX around them, no currency before them."""
    text = ascii_digits(text)
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    text = _FRACTION.sub(_slashed, text)
    text = _GROUPS.sub(lambda found: re.sub(r"\D", "", found[0]), text)
    for pattern, replacement in _NOISE:
        text = pattern.sub(replacement, text)
    return text


def ascii_digits(text: str) -> str:
    """`text` with full-width characters, every kind of minus, vulgar fractions and powers of digits as ASCII."""
    if text.isascii():
        return text
    text = "".join(map(_vulgar_fraction, text))
    text = _SUPERSCRIPT.sub(lambda found: f"^{{{unicodedata.normalize('NFKC', found[0])}}}", text)
    return text.translate(_CHARACTERS)


def _vulgar_fraction(character: str) -> str:
    if unicodedata.category(character) != "No":
        return character
    plain = unicodedata.normalize("NFKC", character)
    return f" {plain}" if "\u2044" in plain else character


def _slashed(found: re.Match[str]) -> str:
    above, below = found[1] or found[2], found[3] or found[4]
    is_mixed = found.string[: found.start()].rstrip()[-1:].isdigit()
    return f"{' ' if is_mixed else ''}{above}/{below}"


def _value(found: re.Match[str]) -> Fraction | None:
    if found["whole"]:
        part, parts = int(found["part"]), int(found["parts"])
        return Fraction(part, parts) + int(found["whole"]) if part < parts else Fraction(part, parts or 1)
    if found["above"]:
        above, below = _of_digits(found["above"], False), _of_digits(found["below"], False)
        return above / below if above is not None and below else below
    in_brackets = found.string[found.start() - 1 : found.start()] in "([" and found.string[found.end() :][:1] in ")]"
    value = _of_digits(found["digits"], found.start() > 0 and in_brackets)
    if value is None:
        return None
    if exponent := found["power_of_ten"] or found["exponent"]:
        return value * Fraction(10) ** int(exponent)
    return _power(value, int(found["power"])) if found["power"] else value


def _power(base: Fraction, exponent: int) -> Fraction | None:
    size = len(str(base.numerator)) + len(str(base.denominator))
    if size * abs(exponent) > _MOST_DIGITS or (not base and exponent < 0):
        return None
    return base**exponent


def _of_digits(digits: str, is_list: bool) -> Fraction | None:
    """The number that digits with commas and dots stand for; the last one of a list; None for 1.2.3."""
    dots, commas = digits.count("."), digits.count(",")
    if (
        commas
        and re.fullmatch(r"\d{1,3}(?:\.\d{3})+,\d+" if dots else r"(?:\d+,\d{1,2}|0,\d+)", digits)
        and not is_list
    ):
        return _fraction(digits.replace(".", "").replace(",", "."))
    if dots > 1 and re.fullmatch(r"\d{1,3}(?:\.\d{3})+", digits):
        return _fraction(digits.replace(".", ""))
    whole, _, part = digits.partition(".")
    if commas and "," not in part and _is_grouped(whole):
        digits = digits.replace(",", "")
    return _fraction(digits.rpartition(",")[2])


def _fraction(digits: str) -> Fraction | None:
    return Fraction(digits) if digits.count(".") < 2 and len(digits) <= _MOST_DIGITS else None


def _is_grouped(whole: str) -> bool:
    """Whether groups are one number: two digits or more (as in India), the last at least three; 1,2,3 is a list."""
    *groups, last = whole.split(",")[1:]
    return len(last) > 2 and all(len(group) > 1 for group in groups)
