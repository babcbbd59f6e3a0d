"""Which decimal numbers a notebook's prose states, and which its code shows."""

import io
import re
import tokenize
from dataclasses import dataclass
from decimal import Decimal

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")

# What is not prose, in the order in which it is taken out.
NOT_PROSE = [
    r"(?ms)^[ ]*```+(?!\{)[^\n]*\n.*?^[ ]*```+[ ]*$",  # fenced code; directives stay
    r"(?m)^[ ]*:[\w-]+:.*$",  # a directive's options
    r"(?s)<!--.*?-->",
    r"(?:\{[\w:+-]+\})?(`+)(?!`).+?(?<!`)\1(?!`)",  # code spans, roles, citations
    r"!?\[[^\]]*\]\([^)]*\)",  # links and pictures
    r"https?://\S+|www\.\S+|\b10\.\d{4,}/\S+",
    r"</?[A-Za-z]+(?:\s[^<>]*)?>",
    r"\\(?:label|tag|ref|eqref|hspace|vspace)\*?\{[^}]*\}|\\\\\[[^\]]*\]",
    r"(?i)(?:\b(?:python|numpy|pytorch|torch|transformers|cuda|versions?|chapters?|sections?|theorems?|tables?|figures?"
    r"|equations?)\s+|§§?\s*)\d+(?:\.\d+)+(?:(?:\s*[,–-]|,? and|,? to)\s*\d+(?:\.\d+)+)*",
]

MANTISSA = r"(?<![\w.])(?<![A-Za-z]-)(?P<mantissa>\d*\.\d+)(?!\.?\d)"
EXPONENT = r"(?:[eE](?P<e>[+-]?\d+)|\s*(?:\\times|\\cdot|×|·)\s*10(?:\^\{?(?P<tex>-?\d+)\}?|(?P<sup>[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)))?"
PROSE_NUMBER = re.compile(MANTISSA + EXPONENT + r"(?P<percent>\s*(?:\\?%|per cent|percent))?(?!\s*(?:em|ex|pt|px)\b)")
CODE_NUMBER = re.compile(r"(?<![\w.])(?P<mantissa>\d+\.?\d*|\.\d+)(?:[eE](?P<e>[+-]?\d+))?(?![\w]|\.\d)")


@dataclass(frozen=True)
class Number:
    """A decimal number as it was written: its value, and the size of one unit in its last digit."""

    text: str
    value: Decimal
    unit: Decimal
    percent: bool = False

    def is_shown_by(self, shown):
        """Tell whether a number of the code is this one, or rounds to it."""
        scales = (1, 100) if self.percent else (1,)
        return any(
            shown.value * scale == self.value
            or (shown.unit * scale <= self.unit and abs(shown.value * scale - self.value) <= self.unit / 2)
            for scale in scales
        )


def prose_numbers(markdown):
    """Return the decimal numbers of a text, those in formulas included; no integers, code, links or versions."""
    for pattern in NOT_PROSE:
        markdown = re.sub(pattern, " ", markdown)
    markdown = re.sub(r"(?<=\d)(?:\{,\}|\\,|,)(?=\d{3}(?!\d))", "", markdown)  # thousands separators
    return [
        _number(match, match["e"] or match["tex"] or (match["sup"] or "").translate(SUPERSCRIPTS))
        for match in PROSE_NUMBER.finditer(markdown)
    ]


def code_numbers(source, outputs):
    """Return the decimal numbers in a cell's source, comments left out, and in the texts it put out."""
    texts = [_without_comments(source)]
    for output in outputs:
        texts.append(output.get("text", ""))
        texts += [value for mime, value in output.get("data", {}).items() if mime.startswith("text/")]
    texts = [re.sub(r"(?<=\d)[,_](?=\d{3}(?!\d))", "", text) for text in texts]
    found = [_number(match, match["e"]) for text in texts for match in CODE_NUMBER.finditer(text)]
    return [number for number in found if re.search(r"[.eE]", number.text)]


def _number(match, exponent):
    power = Decimal(10) ** int(exponent or 0)
    mantissa = match["mantissa"]
    digits = len(mantissa.partition(".")[2])
    percent = bool(match.groupdict().get("percent"))
    return Number(match[0], Decimal(mantissa) * power, Decimal(10) ** -digits * power, percent)


def _without_comments(source):
    try:
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        return " ".join(token.string for token in tokens if token.type != tokenize.COMMENT)
    except (tokenize.TokenError, IndentationError, SyntaxError):
        return source  # IPython's own syntax
