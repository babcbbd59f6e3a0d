"""The metrics of the PyTorch path where tensors make a difference."""

import pytest
import torch

import lmloss.torch as lt

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
def test_streaming_perplexity_keeps_no_graph_and_returns_a_tensor(device):
    metric = lt.Perplexity()
    logits = torch.randn(2, 5, 7, device=device, requires_grad=True)
    metric.update(logits, torch.randint(7, (2, 5), device=device))
    value = metric.compute()
    assert isinstance(value, torch.Tensor)
    assert value.shape == ()
    assert not value.requires_grad


def test_streaming_perplexity_of_half_precision_logits_is_not_summed_in_half():
    metric = lt.Perplexity()
    for _ in range(40):
        metric.update(torch.zeros(500, 3, dtype=torch.bfloat16), torch.zeros(500, dtype=torch.int64))
    assert abs(float(metric.compute()) - 3) < 1e-5
    assert int(metric.token_count) == 20_000
