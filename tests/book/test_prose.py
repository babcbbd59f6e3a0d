import pytest

from tests.book.prose import code_numbers, prose_numbers


def stated(markdown):
    return [number.text.strip() for number in prose_numbers(markdown)]


def bound(markdown, source="", output=""):
    shown = code_numbers(source, [{"text": output}])
    (number,) = prose_numbers(markdown)
    return any(number.is_shown_by(candidate) for candidate in shown)


@pytest.mark.parametrize(
    ("markdown", "numbers"),
    [
        ("The loss is 0.51 nats, then $-\\log .5 = 0.69$.", ["0.51", ".5", "0.69"]),
        ("It ends at 9.21.", ["9.21"]),
        ("A range of 0.5-0.7 and of 1.5–2.5", ["0.5", "0.7", "1.5", "2.5"]),
        ("$2.0\\times10^{-10}$ and 5.9e-25 and 6.1×10⁻⁵", ["2.0\\times10^{-10}", "5.9e-25", "6.1×10⁻⁵"]),
        ("$$\nx = 1{,}024.5\n$$", ["1024.5"]),
        (":::{exercise} Halve 0.5\n:label: ex-0.7\nIs it 0.25?\n:::", ["0.5", "0.25"]),
        ("| p | loss |\n|---|---|\n| 0.1 | 2.30 |", ["0.1", "2.30"]),
        ("-80.5 degrees", ["80.5"]),
    ],
)
def test_decimals_are_found_in_prose_formulas_tables_and_directives(markdown, numbers):
    assert stated(markdown) == numbers


@pytest.mark.parametrize(
    "markdown",
    [
        "In 2026 there were 50,257 tokens and 7/4 bits.",
        "Call `softmax(0.5)` or {math-free}`0.5`; see {cite:p}`lin2.5`.",
        "```python\nx = 0.5\n```",
        "See [section 2.5](https://example.org/0.5) and https://example.org/0.5/x and 10.1000/0.5.",
        "PyTorch 2.13.0 on Python 3.11, NumPy 1.25, Figure 2.1, CC-BY-4.0, Apache-2.0",
        "See sections 3.13, 5.5 and 6.2.2, §4.1 and equations 2.1–2.3.",
        "$a \\\\[0.5em] b$ \\tag{2.1} \\hspace{1.5em}",
        ":::{figure} x.png\n:width: 0.5\n:::",
    ],
)
def test_integers_code_links_versions_and_layout_are_not_prose_numbers(markdown):
    assert stated(markdown) == []


@pytest.mark.parametrize(
    ("markdown", "source", "output"),
    [
        ("0.5108", "", "0.5108"),
        (".5108", "assert loss == 0.5108", ""),
        ("0.51", "", "loss 0.5108"),
        ("23.03", "", "[23.025850 1.0]"),
        ("1,024.5", "x = 1_024.5", ""),
        ("77.3 %", "", "p = 0.7731"),
        ("77.3\\%", "", "p = 77.3"),
        ("$2.0\\times 10^{-10}$", "", "2.04e-10"),
        ("0.6", "p = .60", ""),
    ],
)
def test_a_number_is_bound_where_the_code_shows_it_or_one_that_rounds_to_it(markdown, source, output):
    assert bound(markdown, source, output)


@pytest.mark.parametrize(
    ("markdown", "source", "output"),
    [
        ("0.5108", "", "0.52"),
        ("0.5108", "", "0.511"),
        ("2.0", "x = 2", ""),
        ("0.51", "x = 1  # 0.51", ""),
        ("0.51", "", "10.51"),
        ("0.51", "", "0.516"),
        ("2.0e-10", "", "2.0"),
        ("50.5 nats", "", "0.505"),
    ],
)
def test_a_number_is_not_bound_by_another_number_a_coarser_one_or_a_comment(markdown, source, output):
    assert not bound(markdown, source, output)
