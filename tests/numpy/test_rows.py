"""The driver: what it takes in, and what it lets through from above."""

import warnings

import numpy as np
import pytest

import lmloss.numpy as ln


def test_one_row_with_gaps_between_its_logits_is_read_right():
    row = np.arange(20.0)[::2]
    assert ln.cross_entropy(row, 3) == ln.cross_entropy(row.copy(), 3)


@pytest.mark.parametrize(("reduction", "shape"), [("mean", (4,)), ("none", (5, 3, 4)), ("sequence", (4,))])
def test_an_upstream_gradient_of_another_shape_than_the_loss_is_refused(reduction, shape):
    loss = ln.CrossEntropyLoss(reduction=reduction)
    loss.forward(np.zeros((3, 4, 6)), np.zeros((3, 4), int))
    with pytest.raises(ValueError, match=r"upstream has shape .*; expected"):
        loss.backward(np.ones(shape))


def test_an_undefined_upstream_gradient_does_not_reach_an_ignored_token():
    loss = ln.CrossEntropyLoss(reduction="none")
    loss.forward(np.zeros((2, 3)), [1, -100])
    assert np.array_equal(loss.backward([1.0, np.nan])[1], np.zeros(3))


def test_extreme_logits_give_results_and_no_warnings():
    lowest = np.finfo(np.float32).min
    with warnings.catch_warnings(), np.errstate(all="warn"):
        warnings.simplefilter("error")
        assert np.array_equal(ln.softmax([1e308, -1e308]), [1, 0])
        assert np.array_equal(ln.softmax(np.float32([1, 1, lowest]), temperature=0.5), np.float32([0.5, 0.5, 0]))
        assert np.array_equal(ln.softcap([1e308, -np.inf], 1e-3), [1e-3, -np.inf])
        assert ln.logsumexp([-800.0, 0.0]) == 0
        assert np.isinf(ln.cross_entropy(np.float32([[0, lowest], [0, lowest]]), [1, 1], reduction="sum"))
        assert ln.check_gradient(ln.cross_entropy, [[-np.inf, 0.0]], [1]) < 1e-8
