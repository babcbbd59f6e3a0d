"""Gradients in closed form, the check that they are right, and a loss that remembers what its backward pass needs."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lmloss.numpy._arrays import Array, as_logits
from lmloss.numpy._rows import RowLoss
from lmloss.numpy.cross_entropy import cross_entropy


def value_and_grad(loss: Callable[..., Any]) -> Callable[..., tuple[Any, Array]]:
    r"""Return the function that computes a loss together with its gradient with respect to the logits.

    .. math:: (z, \dots) \mapsto \Bigl(L(z, \dots), \frac{\partial L}{\partial z}\Bigr)

    The gradient comes from the loss's closed form (for plain cross-entropy, softmax minus one-hot), never from finite
    differences.

    Parameters
    ----------
    loss : callable
        A loss on logits of `lmloss.numpy`, such as `cross_entropy`.

    Returns
    -------
    callable
        Takes what `loss` takes, with a reduction that gives one number, and returns ``(value, gradient)``; the gradient
        has the shape and dtype of the logits.

    Raises
    ------
    TypeError
        If `loss` is not a loss on logits of `lmloss.numpy`.
    ValueError
        When called with a reduction that does not give one number.

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> value, gradient = ln.value_and_grad(ln.cross_entropy)([[2.0, 1.0, 0.0]], [0])
    >>> round(float(value), 4), gradient.round(4)
    (0.4076, array([[-0.3348,  0.2447,  0.09  ]]))

    References
    ----------
    Goodfellow, Bengio & Courville, *Deep Learning* (2016), section 6.2.2.3.
    """
    describe = _describe_of(loss)

    def both(logits: ArrayLike, *args: Any, **options: Any) -> tuple[Any, Array]:
        described = describe(logits, *args, **options)
        if described.average.shape:
            raise ValueError(
                f'reduction="{described.average.reduction}" gives one number per '
                f"{'sequence' if described.average.reduction == 'sequence' else 'token'}; "
                'the gradient needs a single one: use "mean" or "sum"'
            )
        return described.value_and_grad()

    return both


def check_gradient(loss: Callable[..., Any], logits: ArrayLike, *args: Any, **options: Any) -> float:
    r"""Compare a loss's closed-form gradient with central differences.

    .. math:: \frac{\partial L}{\partial z_i} \approx \frac{L(z + h e_i) - L(z - h e_i)}{2h}

    Parameters
    ----------
    loss : callable
        A loss on logits of `lmloss.numpy`.
    logits : array_like, shape (..., V)
        Where to compare; taken as float64. Every entry is moved in turn, so keep it small.
    *args, **options
        The loss's other arguments.

    Returns
    -------
    float
        The largest error, relative to the largest entry of the gradient: about 1e-9 where the gradient is right, about
        1 where it is not; NaN where the loss is infinite and has no differences.

    Raises
    ------
    TypeError, ValueError
        As `value_and_grad`.

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> ln.check_gradient(ln.cross_entropy, [[2.0, 1.0, 0.0]], [0], label_smoothing=0.1) < 1e-8
    True

    References
    ----------
    Press et al., *Numerical Recipes*, 3rd edition (2007), section 5.7.
    """
    at = as_logits("logits", logits).astype(np.float64)
    gradient = value_and_grad(loss)(at, *args, **options)[1]
    numeric = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        if not np.isfinite(at[index]):
            continue  # an infinite logit does not move
        step = np.cbrt(np.finfo(np.float64).eps) * max(1.0, abs(at[index]))
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        with np.errstate(invalid="ignore"):  # inf - inf, where the loss is infinite
            difference = loss(up, *args, **options) - loss(down, *args, **options)
        numeric[index] = difference / (up[index] - down[index])
    scale = max(np.abs(gradient).max(initial=0), np.abs(numeric).max(initial=0))
    return float(np.abs(gradient - numeric).max(initial=0) / scale) if scale != 0 else 0.0


class CrossEntropyLoss:
    r"""Hold the options of a cross-entropy; `forward` returns the loss, `backward` its gradient.

    Parameters
    ----------
    ignore_index : int or None
        Targets that cost nothing.
    reduction : {"mean", "sum", "none", "sequence"}
        How tokens are averaged.
    **options
        Every other keyword of `cross_entropy`.

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> loss = ln.CrossEntropyLoss(ignore_index=-1)
    >>> round(float(loss.forward([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]], [0, -1])), 4)
    0.4076
    >>> loss.backward().round(4) + 0.0
    array([[-0.3348,  0.2447,  0.09  ],
           [ 0.    ,  0.    ,  0.    ]])
    """

    def __init__(self, ignore_index: int | None = -100, reduction: str = "mean", **options: Any) -> None:
        inspect.signature(cross_entropy).bind(None, None, **options)  # an unknown option is refused here, not later
        self.options = {"ignore_index": ignore_index, "reduction": reduction, **options}
        self._described: RowLoss | None = None

    def forward(self, logits: ArrayLike, targets: ArrayLike) -> Any:
        """Return the loss of `logits` `(..., V)` on `targets`, both remembered, not copied, for `backward`."""
        described: RowLoss = _describe_of(cross_entropy)(logits, targets, **self.options)
        self._described = described
        return described.value()

    def backward(self, upstream: ArrayLike = 1.0) -> Array:
        """Return d logits, shape `(..., V)`, given the gradient `upstream` of what was returned by `forward`."""
        if self._described is None:
            raise RuntimeError("backward() needs a forward() before it: there is nothing to differentiate yet")
        return self._described.value_and_grad(upstream)[1]


def _describe_of(loss: Callable[..., Any]) -> Callable[..., RowLoss]:
    describe: Callable[..., RowLoss] | None = getattr(loss, "describe", None)
    if describe is None:
        name = getattr(loss, "__name__", type(loss).__name__)
        raise TypeError(f"{name} has no closed-form gradient here; pass a loss on logits of lmloss.numpy")
    return describe
