"""What `lmloss.lab` as a whole promises: its names, and which libraries each of them needs."""

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import lmloss.lab

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {"numpy", "lmloss"} | set(sys.stdlib_module_names):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_checks_and_the_known_language_need_numpy_only() -> None:
    ran = run(
        BLOCK
        + "import numpy as np\nfrom lmloss.lab import VOCAB, check, known_language\n"
        + "check('clip-fp16', 16.6)\nknown_language().sample(3, np.random.default_rng(0))\n"
        + "assert not {'torch', 'transformers', 'matplotlib', 'tokenizers'} & set(sys.modules)"
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("clip-fp16: right.")


def test_text_words_and_bytes_need_numpy_only() -> None:
    ran = run(BLOCK + "from lmloss.lab import byte_tokenizer, real_text, word_tokenizer\nword_tokenizer(real_text())")
    assert ran.returncode == 0, ran.stderr


def test_importing_the_package_imports_nothing_else() -> None:
    ran = run("import sys, lmloss.lab; print(sorted(name for name in sys.modules if name.startswith('lmloss')))")
    assert ran.stdout.strip() == "['lmloss', 'lmloss.lab']"


@pytest.mark.parametrize("name", lmloss.lab.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert name in dir(lmloss.lab)
    thing = getattr(lmloss.lab, name)
    assert thing.__doc__


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'lmloss\.lab' has no attribute 'corpus'"):
        lmloss.lab.corpus  # noqa: B018


@pytest.mark.parametrize("module", [module.name for module in pkgutil.iter_modules(lmloss.lab.__path__, "lmloss.lab.")])
def test_the_examples_in_the_docstrings_run_and_print_what_they_say(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0
