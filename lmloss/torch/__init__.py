"""The fast path: PyTorch on any device, differentiable as often as you like, lean in memory."""

from lmloss.torch._tensors import default_device
from lmloss.torch.alternatives import brier_loss, focal_loss, hinge_loss
from lmloss.torch.contrastive import info_nce_loss
from lmloss.torch.cross_entropy import causal_lm_loss, cross_entropy, masked_lm_loss
from lmloss.torch.distillation import distillation_loss
from lmloss.torch.information import (
    cross_entropy_probs,
    entropy,
    js_divergence,
    kl_divergence,
    mutual_information,
    surprisal,
)
from lmloss.torch.large_vocabulary import (
    HuffmanTree,
    adaptive_log_prob,
    hierarchical_log_prob,
    huffman_tree,
    nce_loss,
    sampled_softmax_loss,
)
from lmloss.torch.masking import mask_tokens
from lmloss.torch.metrics import Perplexity, bits_per_byte, expected_calibration_error, perplexity
from lmloss.torch.modules import CrossEntropyLoss, DistillationLoss, FocalLoss, InfoNCELoss
from lmloss.torch.output_layers import AdaptiveSoftmax, HierarchicalSoftmax
from lmloss.torch.sequence import dpo_loss, minimum_risk_loss, reinforce_loss, scheduled_sampling, sequence_log_prob
from lmloss.torch.softmax import log_softmax, logsumexp, softcap, softmax

__all__ = [
    "AdaptiveSoftmax",
    "CrossEntropyLoss",
    "DistillationLoss",
    "FocalLoss",
    "HierarchicalSoftmax",
    "HuffmanTree",
    "InfoNCELoss",
    "Perplexity",
    "adaptive_log_prob",
    "bits_per_byte",
    "brier_loss",
    "causal_lm_loss",
    "cross_entropy",
    "cross_entropy_probs",
    "default_device",
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
]
