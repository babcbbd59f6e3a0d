import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.paths import PATHS

settings.register_profile(
    "lmloss",
    max_examples=60,
    deadline=None,
    derandomize=True,
    # The fixtures of these tests hold no state that one example could leave to the next.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("lmloss")


@pytest.fixture(params=PATHS, ids=lambda path: path.name)
def path(request):
    """Both paths, one after the other, behind the same face: NumPy arrays in, NumPy arrays out."""
    return request.param


@pytest.fixture
def samples(monkeypatch):
    """A function that says which classes both paths will draw."""

    def say(ids):
        monkeypatch.setattr("lmloss.numpy._candidates._draw", lambda probs, size, rng: np.array(ids))
        monkeypatch.setattr("lmloss.torch._candidates._draw", lambda probs, size, rng: torch.tensor(ids))

    return say
