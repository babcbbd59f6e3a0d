"""Every registered exercise, handed its solution, no answer, and its wrong answers; and answers of every odd kind."""

import numpy as np
import pytest

from lmloss.lab import check
from lmloss.lab.exercises import Exercise, Hint, array, call, choice, close, exercise, number, registered, verdict

EVERY = pytest.mark.parametrize("chosen", registered().values(), ids=list(registered()))


@EVERY
def test_the_official_solution_is_accepted_with_a_reason(chosen: Exercise) -> None:
    assert verdict(chosen.name, chosen.solution) == ("accepted", f"{chosen.name}: right. {chosen.because}")


@EVERY
def test_no_answer_is_asked_for_one(chosen: Exercise) -> None:
    state, line = verdict(chosen.name, ...)
    assert state == "asked"
    assert chosen.task
    assert chosen.task in line


@EVERY
def test_each_wrong_answer_gets_the_hint_that_fits_it(chosen: Exercise) -> None:
    assert len(chosen.wrong) >= 2, "declare at least two plausible wrong answers"
    hints = []
    for answer, words in chosen.wrong:
        state, line = verdict(chosen.name, answer)
        assert state == "refused", f"{answer!r} was not refused"
        assert "could not be judged" not in line
        assert words in line
        hints.append(line)
    assert len(set(hints)) == len(hints), "different mistakes deserve different hints"


@EVERY
def test_what_it_prints_is_one_short_line(chosen: Exercise, capsys: pytest.CaptureFixture[str]) -> None:
    for answer in [..., chosen.solution, *[answer for answer, _ in chosen.wrong]]:
        check(chosen.name, answer)
        line = capsys.readouterr().out
        assert line.count("\n") == 1
        assert len(line) <= 320, "one sentence or two"


def raises(*args: object, **kwargs: object) -> None:
    raise ZeroDivisionError("division by zero")


ODD = [
    None,
    True,
    "",
    "sixteen",
    b"x",
    1j,
    float("nan"),
    [],
    [1, [2, 3]],
    {},
    {"a": 1},
    object(),
    raises,
    [...],
    lambda: 1,
]


@EVERY
@pytest.mark.parametrize("odd", ODD, ids=[str(place) for place in range(len(ODD))])
def test_an_answer_of_an_odd_kind_gets_a_hint_and_never_a_traceback(
    chosen: Exercise, odd: object, capsys: pytest.CaptureFixture[str]
) -> None:
    if isinstance(odd, bool) and isinstance(chosen.solution, bool):
        return  # of the right kind here
    check(chosen.name, odd)
    line = capsys.readouterr().out
    assert line.startswith(f"{chosen.name}: not yet. ")
    assert "could not be judged" not in line


def test_an_unknown_name_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ValueError, match=r"name = 'clip-fp61' is not an exercise; did you mean 'clip-fp16'"):
        check("clip-fp61", 1)
    with pytest.raises(ValueError, match=r"name = 'qqq' is not an exercise; there are .*clip-fp16"):
        check("qqq", 1)


def test_two_chapters_cannot_use_one_name() -> None:
    def clip_fp16(answer: object) -> None:
        """Stand in for another chapter's exercise."""

    registered()
    with pytest.raises(ValueError, match="exercise 'clip-fp16' exists twice"):
        exercise(solution=1, because="", wrong=[])(clip_fp16)


def test_a_number_is_read_from_numpy_and_pytorch_scalars() -> None:
    torch = pytest.importorskip("torch")
    for scalar in [0.5, np.float16(0.5), np.array([0.5]), torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True)]:
        assert number(scalar) == 0.5
    np.testing.assert_array_equal(array([torch.tensor(1.0, requires_grad=True), np.int64(2)]), [1.0, 2.0])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([1, 2], r"one number; this has shape \(2,\)"),
        ("16.6", "is text"),
        (float("nan"), "contains NaN"),
        (None, "NoneType"),
        (True, "of type bool"),
        (abs, "not a function"),
        ([[1], [2, 3]], "rows differ in length"),
        ([1, ...], "still contains"),
    ],
)
def test_what_is_no_number_gets_a_hint_that_says_so(answer: object, words: str) -> None:
    with pytest.raises(Hint, match=words):
        number(answer)


def test_an_array_of_another_shape_is_told_both_shapes() -> None:
    with pytest.raises(Hint, match=r"should have shape \(3,\); this has shape \(2,\)"):
        array([1, 2], shape=(3,))


def test_a_choice_ignores_case_and_lists_the_options_otherwise() -> None:
    assert choice(" Reverse", ["forward", "reverse"]) == "reverse"
    for answer in ["backward", 3]:
        with pytest.raises(Hint, match="'forward' or 'reverse'"):
            choice(answer, ["forward", "reverse"])


def test_a_function_that_fails_is_reported_with_its_arguments() -> None:
    with pytest.raises(Hint, match=r"raised ZeroDivisionError \(division by zero\) when called with 1, base=2"):
        call(raises, 1, base=2)
    with pytest.raises(Hint, match=r"returned None .* does it end in `return`"):
        call(lambda x: None, 1)
    with pytest.raises(Hint, match="should be a function"):
        call(3)


def test_a_function_that_overwrites_its_argument_does_not_reach_the_judge_s() -> None:
    mine = np.ones(2)
    call(lambda x: x.fill(7) or 1, mine)
    np.testing.assert_array_equal(mine, [1, 1])


def test_closeness_is_absolute_and_knows_infinity() -> None:
    assert close(np.inf, np.inf)
    assert not close([1.0, 2.0], 1.0)
    assert not close(1e9 + 1, 1e9)


def test_a_right_function_may_work_in_float32_and_return_a_tensor_that_carries_a_gradient() -> None:
    torch = pytest.importorskip("torch")

    def per_token(student: object, teacher: object) -> object:
        log_q = torch.tensor(student, dtype=torch.float32, requires_grad=True).log_softmax(-1)
        log_p = torch.tensor(teacher, dtype=torch.float32).log_softmax(-1)
        return (log_p.exp() * torch.where(log_p > -np.inf, log_p - log_q, 0.0)).sum(-1).mean()

    def batch_gradient(logits: object, targets: np.ndarray, ignore_index: int) -> object:
        z, rows = torch.tensor(logits, dtype=torch.float32, requires_grad=True), np.flatnonzero(targets != ignore_index)
        chosen = torch.tensor(targets[rows])
        (torch.nn.functional.cross_entropy(z[rows], chosen, reduction="sum") / max(len(rows), 1)).backward()
        return z.grad.requires_grad_()

    assert verdict("kl-per-token", per_token).state == "accepted"
    assert verdict("batch-gradient", batch_gradient).state == "accepted"


def test_an_order_of_magnitude_is_ten_times_less_or_more() -> None:
    states = [verdict("step-size", step).state for step in (4e-4, 5e-4, 5e-3, 5e-2, 6e-2)]
    assert states == ["refused", *3 * ["accepted"], "refused"]
    assert "square root of eps" in verdict("step-size", 4.8e-4).line
