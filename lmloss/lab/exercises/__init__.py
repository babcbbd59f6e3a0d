"""Exercises that check an answer and, where it is wrong, give a hint that fits the mistake.

A chapter's exercises live in the module of its name (``exercises/log_softmax.py``); every module of this package is
found by itself, so there is no list to extend. To add one, write its judge and decorate it:

.. code-block:: python

    @exercise(
        solution=16.6,
        because="The smallest positive float16 is 2**-24, and -log(2**-24) = 16.6.",
        wrong=[(23.03, "1e-10"), (11.1, "largest float16")],
    )
    def clip_fp16(answer: object) -> str | None:
        \"""One number, to one decimal: the largest finite loss that -log(softmax(z)) reports in float16.\"""
        loss = number(answer)
        if close(loss, -np.log(2.0**-24), 0.06):
            return None
        if close(loss, 23.03, 0.06):
            return "That is -log(1e-10), but there is no clip here. What is the smallest positive float16?"
        return "Take -log of the smallest positive float16."

* The function's name is the exercise's name: ``clip_fp16`` is checked with ``check("clip-fp16", answer)``.
* Its docstring says in one sentence what to hand in; a reader whose answer is still ``...`` is told it.
* It returns ``None`` for a right answer and otherwise the hint: one line that fits the mistake.
* ``because`` is the sentence a right answer is greeted with.
* ``solution`` is the official answer; ``wrong`` lists two or more plausible wrong ones, each with words that its hint
  must contain. The tests hand all of them in, so give every mistake that people make its own hint.

Judges read an answer with `number`, `array`, `choice` and `call`. They accept what a reader may
plausibly hand in (NumPy and PyTorch scalars, lists, tensors on any device) and turn anything else into a hint.
Whatever else goes wrong inside a judge becomes a hint as well: a reader never sees a traceback.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Exercise", "Hint", "Verdict", "array", "call", "check", "choice", "close", "exercise", "number", "verdict"]

Judge = Callable[[Any], "str | None"]


class Hint(Exception):
    """Raised while an answer is judged: the answer is wrong, and the message is the hint."""


class Verdict(NamedTuple):
    """What became of an answer, and the line that `check` prints about it."""

    state: Literal["asked", "accepted", "refused"]
    line: str


@dataclass(frozen=True)
class Exercise:
    """One exercise: how to judge an answer, and the answers its test hands in."""

    name: str
    task: str
    judge: Judge
    because: str
    solution: Any
    wrong: Sequence[tuple[Any, str]]


_registered: dict[str, Exercise] = {}


def exercise(*, solution: Any, because: str, wrong: Sequence[tuple[Any, str]]) -> Callable[[Judge], Judge]:
    """Register the decorated judge as an exercise; the module's docstring shows how.

    Parameters
    ----------
    solution : object
        The official answer: a value, or a function where the task is to write one.
    because : str
        The sentence that a right answer is greeted with.
    wrong : sequence of (object, str)
        Plausible wrong answers, each with words that its hint contains.
    """

    def register(judge: Judge) -> Judge:
        name = getattr(judge, "__name__", "").replace("_", "-")
        if name in _registered and _registered[name].judge.__module__ != judge.__module__:
            raise ValueError(f"exercise {name!r} exists twice: in {_registered[name].judge.__module__} and here")
        task = " ".join((judge.__doc__ or "").split())
        _registered[name] = Exercise(name, task, judge, because, solution, tuple(wrong))
        return judge

    return register


@cache
def registered() -> dict[str, Exercise]:
    """Import every chapter's module once and return all exercises by name."""
    for module in pkgutil.iter_modules(__path__, prefix=f"{__name__}."):
        importlib.import_module(module.name)
    return dict(sorted(_registered.items()))


def verdict(name: str, answer: object) -> Verdict:
    """Judge an answer without printing: `check` prints the verdict's line.

    Examples
    --------
    >>> verdict("clip-fp16", 16.6).state
    'accepted'
    """
    exercises = registered()
    if name not in exercises:
        near = difflib.get_close_matches(str(name), exercises, n=3, cutoff=0.4)
        known = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(exercises)}"
        raise ValueError(f"name = {name!r} is not an exercise; {known}")
    chosen = exercises[name]
    if answer is ...:
        return Verdict("asked", f"{name}: answer is still `...`. Wanted: {chosen.task}")
    try:
        hint = chosen.judge(answer)
    except Hint as found:
        hint = str(found)
    except Exception as error:
        hint = f"This answer could not be judged ({type(error).__name__}: {error}). Wanted: {chosen.task}"
    if hint is None:
        return Verdict("accepted", f"{name}: right. {chosen.because}")
    return Verdict("refused", f"{name}: not yet. {' '.join(hint.split())}")


def check(exercise: str, answer: object) -> None:
    """Check the answer to an exercise and print one line: asked, right, or a hint.

    Parameters
    ----------
    exercise : str
        The exercise's name, as printed beside it.
    answer : object
        Your answer: a number, a list, a word or a function, as the exercise says; ``...`` while you have none.

    Raises
    ------
    ValueError
        If there is no exercise of that name. A wrong answer never raises.

    Examples
    --------
    >>> check("clip-fp16", ...)
    clip-fp16: answer is still `...`. Wanted: One number, to one decimal: the largest finite loss that \
-log(softmax(z)) reports in float16.
    >>> check("clip-fp16", 23.03)
    clip-fp16: not yet. That is -log(1e-10), but there is no clip here. What is the smallest positive float16?
    >>> check("clip-fp16", 16.6)
    clip-fp16: right. The smallest positive float16 is 2**-24, and -log(2**-24) = 16.6.
    """
    print(verdict(exercise, answer).line)


def number(answer: object, what: str = "The answer") -> float:
    """Return an answer as one finite float (``inf`` allowed); a hint if it is not one number.

    Examples
    --------
    >>> number(np.float32(0.5))
    0.5
    """
    values = array(answer, what)
    if values.size != 1:
        raise Hint(f"{what} should be one number; this has shape {values.shape}.")
    return float(values.reshape(()))


def array(answer: object, what: str = "The answer", shape: tuple[int, ...] | None = None) -> npt.NDArray[np.float64]:
    """Return an answer (number, nested list, NumPy array, PyTorch tensor) as a float64 array; a hint if it is none.

    Parameters
    ----------
    answer : object
        What the reader handed in.
    what : str
        How the hint names it.
    shape : tuple of int, optional
        The shape it must have.

    Examples
    --------
    >>> array([0.5, np.float64(0.5)])
    array([0.5, 0.5])
    """
    plain = _plain(answer, what)
    try:
        values = np.asarray(plain)
    except ValueError:
        raise Hint(f"{what} is a list whose rows differ in length.") from None
    if values.dtype.kind in "US":
        raise Hint(f"{what} is text ({_short(answer)}); give the number itself, without quotation marks.")
    if values.dtype.kind not in "iuf":
        raise Hint(f"{what} should be made of numbers; this is {_short(answer)} of type {type(answer).__name__}.")
    values = values.astype(np.float64)
    if np.isnan(values).any():
        raise Hint(f"{what} contains NaN: somewhere there is a 0/0, an inf - inf or a 0 * inf.")
    if shape is not None and values.shape != shape:
        raise Hint(f"{what} should have shape {shape}; this has shape {values.shape}.")
    return values


def choice(answer: object, options: Sequence[str], what: str = "The answer") -> str:
    """Return the option that an answer names, whatever its case; a hint listing the options if it names none.

    Examples
    --------
    >>> choice("Forward ", ["forward", "reverse"])
    'forward'
    """
    wanted = " or ".join(repr(option) for option in options)
    if not isinstance(answer, str):
        raise Hint(f"{what} should be one of the words {wanted}; this is {_short(answer)}.")
    for option in options:
        if option.casefold() == answer.strip().casefold():
            return option
    raise Hint(f"{what} should be one of the words {wanted}; this is {answer!r}.")


def call(answer: object, *args: Any, **kwargs: Any) -> Any:
    """Call the reader's function on copies of the arguments; a hint if it is none, raises, or returns nothing.

    Examples
    --------
    >>> call(lambda x: x + 1, 2)
    3
    """
    if not callable(answer):
        raise Hint(f"The answer should be a function (its name, without calling it); this is {_short(answer)}.")
    shown = ", ".join([_short(value) for value in args] + [f"{key}={_short(value)}" for key, value in kwargs.items()])
    try:
        with np.errstate(all="ignore"):
            result = answer(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    except Exception as error:
        raise Hint(f"Your function raised {type(error).__name__} ({error}) when called with {shown}.") from None
    if result is None or result is ...:
        raise Hint(f"Your function returned {_short(result)} when called with {shown}; does it end in `return`?")
    return result


def close(value: npt.ArrayLike, expected: npt.ArrayLike, within: float = 1e-6) -> bool:
    """Tell whether all values lie within an absolute distance of the expected ones (equal infinities do).

    Examples
    --------
    >>> close(16.6, -np.log(2.0**-24), 0.06)
    True
    """
    value, expected = np.asarray(value, dtype=float), np.asarray(expected, dtype=float)
    return value.shape == expected.shape and bool(np.allclose(value, expected, rtol=0, atol=within))


def _plain(answer: object, what: str) -> object:
    if answer is ...:
        raise Hint(f"{what} still contains `...`.")
    if callable(answer) and not hasattr(answer, "tolist"):
        raise Hint(f"{what} should be a number, not a function; call it and hand in what it returns.")
    if hasattr(answer, "tolist"):  # NumPy and PyTorch alike: any dtype, any device, with or without a gradient
        return answer.tolist()
    if isinstance(answer, (list, tuple)):
        return [_plain(value, what) for value in answer]
    if isinstance(answer, Real | Decimal) and not isinstance(answer, bool):  # a Fraction, an mpmath number
        return float(answer)
    return answer


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
