"""One face for both paths, so that a sentence of the contract is tested once and holds twice."""

import numpy as np
import torch

import lmloss.numpy as ln
import lmloss.torch as lt


class NumPyPath:
    name = "numpy"
    module = ln
    dtypes = ("float64", "float32", "float16")

    def array(self, values, dtype="float64"):
        return np.array(values, dtype=dtype)

    def to_numpy(self, result):
        return np.asarray(result, dtype=np.float64)

    def dtype_name(self, result):
        return result.dtype.name

    def call(self, function, *arrays, **options):
        return getattr(ln, function)(*arrays, **options)

    def value_and_grad(self, function, logits, targets, **options):
        return ln.value_and_grad(getattr(ln, function))(logits, targets, **options)


class TorchPath:
    name = "torch"
    module = lt
    dtypes = ("float64", "float32", "float16", "bfloat16")

    def array(self, values, dtype="float64"):
        return torch.tensor(np.asarray(values).tolist(), dtype=getattr(torch, dtype)).reshape(np.shape(values))

    def to_numpy(self, result):
        return result.detach().to(torch.float64).numpy()

    def dtype_name(self, result):
        return str(result.dtype).removeprefix("torch.")

    def _tensor(self, value):
        return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value

    def call(self, function, *arrays, **options):
        tensors = [self._tensor(value) for value in arrays]
        return getattr(lt, function)(*tensors, **{name: self._tensor(value) for name, value in options.items()})

    def value_and_grad(self, function, logits, targets, **options):
        leaf = self._tensor(logits).clone().requires_grad_()
        value = self.call(function, leaf, targets, **options)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), gradient


PATHS = (NumPyPath(), TorchPath())


def assert_close(got, want, rtol=1e-12):
    """Equal shape, equal NaN and infinity, and a difference of at most rtol of the number and of the largest."""
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape
    finite = np.abs(want[np.isfinite(want)])
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * finite.max(initial=0.0))
