"""The reference path: readable NumPy, float64-friendly, every gradient in closed form."""

from lmloss.numpy.alternatives import brier_loss, focal_loss, hinge_loss
from lmloss.numpy.cross_entropy import causal_lm_loss, cross_entropy, masked_lm_loss
from lmloss.numpy.gradients import CrossEntropyLoss, check_gradient, value_and_grad
from lmloss.numpy.information import (
    cross_entropy_probs,
    entropy,
    js_divergence,
    kl_divergence,
    mutual_information,
    surprisal,
)
from lmloss.numpy.metrics import Perplexity, bits_per_byte, expected_calibration_error, perplexity
from lmloss.numpy.softmax import log_softmax, logsumexp, softcap, softmax

__all__ = [
    "CrossEntropyLoss",
    "Perplexity",
    "bits_per_byte",
    "brier_loss",
    "causal_lm_loss",
    "check_gradient",
    "cross_entropy",
    "cross_entropy_probs",
    "entropy",
    "expected_calibration_error",
    "focal_loss",
    "hinge_loss",
    "js_divergence",
    "kl_divergence",
    "log_softmax",
    "logsumexp",
    "masked_lm_loss",
    "mutual_information",
    "perplexity",
    "softcap",
    "softmax",
    "surprisal",
    "value_and_grad",
]
