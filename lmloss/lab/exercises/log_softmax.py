"""The exercises of the chapter on log-softmax."""

import numpy as np

from lmloss.lab.exercises import close, exercise, number


@exercise(
    solution=16.6,
    because="The smallest positive float16 is 2**-24, and -log(2**-24) = 16.6.",
    wrong=[
        (23.03, "no clip here"),
        (9.7, "subnormal"),
        (np.inf, "finite"),
        (-16.6, "sign"),
        (7.2, "natural logarithm"),
    ],
)
def clip_fp16(answer: object) -> str | None:
    """One number, to one decimal: the largest finite loss that -log(softmax(z)) reports in float16."""
    loss = number(answer)
    right = -np.log(2.0**-24)
    if close(loss, right, 0.06):
        return None
    if np.isinf(loss):
        return "That is the loss at probability 0. What is the last finite one, at the smallest positive float16?"
    if close(loss, -np.log(1e-10), 0.06):
        return "That is -log(1e-10), but there is no clip here. What is the smallest positive float16?"
    if close(loss, -np.log(2.0**-14), 0.06):
        return "That is -log of the smallest normal float16, 2**-14; subnormal numbers go ten halvings further down."
    if close(loss, -right, 0.06):
        return "Mind the sign: a loss is the negative logarithm, and -log of a number below 1 is positive."
    if close(loss, right / np.log(10), 0.06) or close(loss, right / np.log(2), 0.06):
        return "Losses are in nats: take the natural logarithm."
    return "The loss is -log of a probability, so it is largest at the smallest positive float16, about 6e-8."
