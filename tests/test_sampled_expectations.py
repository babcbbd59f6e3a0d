"""What the sampled losses are on average: exact sums over every sample that can be drawn, and seeded draws."""

import itertools
import math

import numpy as np
import pytest
import torch

import lmloss.torch as lt
from tests.paths import assert_close
from tests.test_large_vocabulary import SAMPLED, batch, number

PROBS = np.array([0.1, 0.2, 0.3, 0.4])


def softplus(x):
    return np.logaddexp(0, x)


def every_sample(size, probs=PROBS):
    """Every sample of a size, and its probability."""
    for drawn in itertools.product(range(len(probs)), repeat=size):
        yield list(drawn), math.prod(probs[s] for s in drawn)


def every_count(size, probs):
    """Every sample of a size but for its order, and its probability: a multinomial."""
    for bars in itertools.combinations(range(size + len(probs) - 1), len(probs) - 1):
        counts = np.diff([-1, *bars, size + len(probs) - 1]) - 1
        ways = math.factorial(size)
        for n in counts:
            ways //= math.factorial(n)
        yield np.repeat(np.arange(len(probs)), counts).tolist(), ways * math.prod(probs**counts)


def numbers(path, function, z, targets, size, probs=PROBS, reduction="none", **options):
    """The losses of tokens that all have the logits z, given as the bias."""
    hidden, weight = np.zeros((len(targets), 1)), np.zeros((len(z), 1))
    common = {"num_samples": size, "sampling_probs": probs, "bias": z, "reduction": reduction}
    return number(path, function, hidden, weight, np.asarray(targets), **common, **options)


# Sampled softmax


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_estimate_of_the_partition_function_is_unbiased(path, samples, size):
    z = np.array([0.3, -1.0, 2.0, 0.5])
    estimate = np.zeros(4)
    for drawn, chance in every_sample(size):
        samples(drawn)
        estimate += chance * np.exp(numbers(path, "sampled_softmax_loss", z, range(4), size) + z)
    assert_close(estimate, np.full(4, np.exp(z).sum()), rtol=1e-14)


def test_the_loss_is_low_by_its_variance_over_twice_the_size(path, samples):
    z, probs = np.array([0.5, -0.5, 0.0]), np.array([0.2, 0.5, 0.3])
    full = np.logaddexp.reduce(z) - z
    partition = np.exp(z).sum()
    gaps = []
    for size in (8, 16, 32):
        expected = np.zeros(3)
        for drawn, chance in every_count(size, probs):
            samples(drawn)
            expected += chance * numbers(path, "sampled_softmax_loss", z, range(3), size, probs)
        gaps.append(full - expected)
    assert (np.array(gaps) > 0).all(), "Jensen"
    assert_close(gaps[1] / gaps[2], np.full(3, 2.0), rtol=0.1)
    others = ~np.eye(3, dtype=bool)  # [y, j]: the target's own samples contribute 0
    second = (others * np.exp(2 * z) / probs).sum(-1)
    variance = (second - (partition - np.exp(z)) ** 2) / 32
    assert_close(gaps[2], variance / (2 * partition**2), rtol=0.1)


def test_the_gradients_bias_falls_as_one_over_the_size(samples):
    z, probs = torch.tensor([0.5, -0.5, 0.0], dtype=torch.float64), np.array([0.2, 0.5, 0.3])
    targets = torch.tensor([0, 1, 2])
    full = torch.softmax(z, 0) - torch.eye(3, dtype=torch.float64)
    biases = []
    for size in (8, 16, 32):
        expected = torch.zeros(3, 3, dtype=torch.float64)
        for drawn, chance in every_count(size, probs):
            samples(drawn)
            # One bias for each token, as the weights of a one-hot state: row t of the gradient is token t's.
            weight = z[:, None].repeat(1, 3).requires_grad_()
            loss = lt.sampled_softmax_loss(
                torch.eye(3, dtype=torch.float64), weight, targets,
                num_samples=size, sampling_probs=torch.tensor(probs), reduction="sum",
            )  # fmt: skip
            expected += chance * torch.autograd.grad(loss, weight)[0].T
        biases.append((expected - full).abs())
    assert (biases[0] > 1e-4).all()
    for coarse, fine in itertools.pairwise(biases):
        ratio = coarse / fine
        assert ((ratio > 1.7) & (ratio < 2.4)).all()
    assert biases[2].max() < 0.02


def test_drawn_classes_come_as_often_as_they_should_and_estimate_the_partition_function(path):
    """Five standard errors of 400 calls, each with its own 50 draws."""
    rng = {"numpy": np.random.default_rng(1), "torch": torch.Generator().manual_seed(1)}[path.name]
    z = np.array([0.3, -1.0, 2.0, 0.5])
    runs = np.array([numbers(path, "sampled_softmax_loss", z, range(4), 50, rng=rng) for _ in range(400)])
    estimates = np.exp(runs + z)
    error = estimates.std(axis=0, ddof=1) / 20
    assert (np.abs(estimates.mean(axis=0) - np.exp(z).sum()) < 5 * error).all()
    assert (error < 0.1).all()
    assert (error > 0.001).all()


def test_draws_follow_their_distribution_to_the_rarest_class(path):
    """A chi-square over 2,000 classes within five of its standard deviations, and the two ends on their own."""
    from lmloss.numpy._candidates import _draw as draw_numpy
    from lmloss.torch._candidates import _draw as draw_torch

    shares = 1 / np.arange(1, 2001) ** 1.2
    shares /= shares.sum()
    size = 2_000_000
    if path.name == "numpy":
        drawn = draw_numpy(shares, size, np.random.default_rng(2))
    else:
        drawn = draw_torch(torch.tensor(shares), size, torch.Generator().manual_seed(2)).numpy()
    counts = np.bincount(drawn, minlength=2000)
    assert len(counts) == 2000
    chi_square = ((counts - size * shares) ** 2 / (size * shares)).sum()
    assert abs(chi_square - 1999) < 5 * math.sqrt(2 * 1999)
    for j in (0, 1999):
        assert abs(counts[j] - size * shares[j]) < 5 * math.sqrt(size * shares[j])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_rarest_of_many_classes_have_their_share_in_either_precision(path, dtype, monkeypatch):
    """A uniform number in the middle of a class's share draws that class, also where float32 sums cannot tell them."""
    from lmloss.numpy._candidates import _draw as draw_numpy
    from lmloss.torch._candidates import _draw as draw_torch

    shares = np.full(50257, 1 / 49257, dtype=dtype)
    shares[-1000:] = 5e-10
    steps = shares.cumsum(dtype=np.float64)
    middles = (steps - shares / 2) / steps[-1]
    if path.name == "numpy":
        rng = type("Stub", (), {"random": lambda self, size: middles})()
        drawn = draw_numpy(shares.astype(np.float64), len(shares), rng)
    else:
        monkeypatch.setattr(torch, "rand", lambda size, **options: torch.tensor(middles, dtype=options["dtype"]))
        drawn = draw_torch(torch.tensor(shares), len(shares), None)
    assert np.array_equal(drawn, np.arange(50257))


@pytest.mark.parametrize("function", SAMPLED)
def test_the_same_generator_gives_the_same_loss_and_the_next_call_another(path, function):
    hidden, weight, targets = batch(3)
    probs = np.full(7, 1 / 7)

    def generator():
        return {"numpy": np.random.default_rng, "torch": lambda s: torch.Generator().manual_seed(s)}[path.name](4)

    def loss(rng):
        return number(path, function, hidden, weight, targets, num_samples=3, sampling_probs=probs, rng=rng)

    rng = generator()
    first, second = loss(rng), loss(rng)
    assert first == loss(generator())
    assert first != second
    assert np.isfinite(loss(None))


# Noise-contrastive estimation


@pytest.mark.parametrize("size", [1, 3])
def test_the_expected_noise_contrastive_loss_is_its_closed_form(path, samples, size):
    z, truth = np.array([0.3, -1.0, 2.0, 0.5]), np.array([0.4, 0.3, 0.2, 0.1])
    expected = 0.0
    for drawn, chance in every_sample(size):
        samples(drawn)
        expected += chance * truth @ numbers(path, "nce_loss", z, range(4), size)
    delta = z - np.log(size * PROBS)
    assert_close(expected, truth @ softplus(-delta) + size * PROBS @ softplus(delta), rtol=1e-14)


def noise_in_proportion(size):
    """A sample in which each class is there as often as it is expected, for probabilities of tenths."""
    return np.repeat(np.arange(4), (PROBS * size).round().astype(int)).tolist()


@pytest.mark.parametrize("size", [10, 50])
def test_the_expected_gradient_vanishes_at_the_true_log_probabilities_and_nowhere_near(samples, size):
    truth = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    samples(noise_in_proportion(size))

    def slope(z):
        z = z.clone().requires_grad_()
        zeros = torch.zeros(4, 1, dtype=torch.float64)
        loss = lt.nce_loss(
            zeros, zeros, torch.arange(4), num_samples=size, sampling_probs=torch.tensor(PROBS), bias=z,
            token_weight=truth, reduction="sum",
        )  # fmt: skip
        # Each of the four tokens brings the sample's loss with its weight: in all once, as the weights sum to 1.
        return torch.autograd.grad(loss, z)[0]

    assert slope(truth.log()).abs().max() < 1e-15
    assert slope(truth.log() + 0.1).min() > 1e-3, "shifted logits are no longer normalised, and are pulled back"
    assert slope(truth.log() - 0.1).max() < -1e-3


def test_the_minimum_is_normalised_without_any_sum_over_the_vocabulary(samples):
    truth = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    samples(noise_in_proportion(10))
    z = torch.tensor([3.0, -2.0, 0.0, 5.0], dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros(4, 1, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        [z], max_iter=200, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = lt.nce_loss(
            zeros, zeros, torch.arange(4), num_samples=10, sampling_probs=torch.tensor(PROBS), bias=z,
            token_weight=truth, reduction="sum",
        )  # fmt: skip
        loss.backward()
        return loss

    optimizer.step(closure)
    assert (z.detach() - truth.log()).abs().max() < 1e-7
    assert abs(z.detach().exp().sum().item() - 1) < 1e-7


def test_drawn_targets_and_noise_lead_to_the_truth():
    """The minimum over 100,000 drawn targets and 20,000 drawn samples, within five standard errors of the truth."""
    truth, noise = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64), torch.tensor(PROBS)
    tokens, size = 100_000, 20_000
    targets = torch.multinomial(truth, tokens, replacement=True, generator=torch.Generator().manual_seed(5))
    shares = targets.bincount(minlength=4) / tokens
    z = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros(4, 1, dtype=torch.float64)
    optimizer = torch.optim.LBFGS([z], max_iter=100, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = lt.nce_loss(
            zeros, zeros, torch.arange(4), num_samples=size, sampling_probs=noise, bias=z, token_weight=shares,
            rng=torch.Generator().manual_seed(6), reduction="sum",
        )  # fmt: skip
        loss.backward()
        return loss

    optimizer.step(closure)
    error = z.detach() - truth.log()
    assert (error.abs() < 5 * ((1 / truth - 1) / tokens + (1 / noise - 1) / size).sqrt()).all()
    assert error.abs().max() > 1e-6, "drawn, and so not exact"
