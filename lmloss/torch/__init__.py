"""The fast path: PyTorch on any device, differentiable as often as you like, lean in memory."""

from lmloss.torch._tensors import default_device
from lmloss.torch.alternatives import brier_loss, focal_loss, hinge_loss
from lmloss.torch.cross_entropy import causal_lm_loss, cross_entropy, masked_lm_loss
from lmloss.torch.information import (
    cross_entropy_probs,
    entropy,
    js_divergence,
    kl_divergence,
    mutual_information,
    surprisal,
)
from lmloss.torch.metrics import Perplexity, bits_per_byte, expected_calibration_error, perplexity
from lmloss.torch.modules import CrossEntropyLoss
from lmloss.torch.softmax import log_softmax, logsumexp, softcap, softmax

__all__ = [
    "CrossEntropyLoss",
    "Perplexity",
    "bits_per_byte",
    "brier_loss",
    "causal_lm_loss",
    "cross_entropy",
    "cross_entropy_probs",
    "default_device",
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
]
