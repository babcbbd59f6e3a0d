"""The loss functions of language models: what they are, what they cost, what they get wrong.

`lmloss.numpy` is the readable reference with closed-form gradients; `lmloss.torch` is the fast path on any device.
They share names, parameters and meaning, and neither imports the other.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("lmloss")
except PackageNotFoundError:  # run from a folder or a zip on sys.path, without installation
    __version__ = "0+unknown"
