"""The reference path: readable NumPy, float64-friendly, every gradient in closed form."""

from lmloss.numpy.alternatives import brier_loss, focal_loss, hinge_loss
from lmloss.numpy.contrastive import info_nce_loss
from lmloss.numpy.cross_entropy import causal_lm_loss, cross_entropy, masked_lm_loss
from lmloss.numpy.distillation import distillation_loss
from lmloss.numpy.gradients import CrossEntropyLoss, check_gradient, value_and_grad
from lmloss.numpy.information import (
    cross_entropy_probs,
    entropy,
    js_divergence,
    kl_divergence,
    mutual_information,
    surprisal,
)
from lmloss.numpy.large_vocabulary import (
    HuffmanTree,
    adaptive_log_prob,
    hierarchical_log_prob,
    huffman_tree,
    nce_loss,
    sampled_softmax_loss,
)
from lmloss.numpy.masking import mask_tokens
from lmloss.numpy.metrics import Perplexity, bits_per_byte, expected_calibration_error, perplexity
from lmloss.numpy.sequence import dpo_loss, minimum_risk_loss, reinforce_loss, scheduled_sampling, sequence_log_prob
from lmloss.numpy.softmax import log_softmax, logsumexp, softcap, softmax

__all__ = [
    "CrossEntropyLoss",
    "HuffmanTree",
    "Perplexity",
    "adaptive_log_prob",
    "bits_per_byte",
    "brier_loss",
    "causal_lm_loss",
    "check_gradient",
    "cross_entropy",
    "cross_entropy_probs",
    "distillation_loss",
    "dpo_loss",
    "entropy",
    "expected_calibration_error",
    "focal_loss",
    "hierarchical_log_prob",
    "hinge_loss",
    "huffman_tree",
    "info_nce_loss",
    "js_divergence",
    "kl_divergence",
    "log_softmax",
    "logsumexp",
    "mask_tokens",
    "masked_lm_loss",
    "minimum_risk_loss",
    "mutual_information",
    "nce_loss",
    "perplexity",
    "reinforce_loss",
    "sampled_softmax_loss",
    "scheduled_sampling",
    "sequence_log_prob",
    "softcap",
    "softmax",
    "surprisal",
    "value_and_grad",
]
