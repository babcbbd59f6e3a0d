"""What the book's notebooks stand on: a known language, real text, a real model, figures and exercise checks.

`check`, `known_language` and `VOCAB` need NumPy only. The rest needs the ``[book]`` extra and is imported when used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import lmloss.lab.figures as figures
    import lmloss.lab.results as results
    from lmloss.lab.exercises import check as check
    from lmloss.lab.language import VOCAB as VOCAB
    from lmloss.lab.language import KnownLanguage as KnownLanguage
    from lmloss.lab.language import known_language as known_language
    from lmloss.lab.models import evaluate as evaluate
    from lmloss.lab.models import ngram as ngram
    from lmloss.lab.models import small_transformer as small_transformer
    from lmloss.lab.models import train as train
    from lmloss.lab.pretrained import SmolLM2 as SmolLM2
    from lmloss.lab.pretrained import smollm2 as smollm2
    from lmloss.lab.text import Tokenizer as Tokenizer
    from lmloss.lab.text import batches as batches
    from lmloss.lab.text import bpe_tokenizer as bpe_tokenizer
    from lmloss.lab.text import byte_tokenizer as byte_tokenizer
    from lmloss.lab.text import real_text as real_text
    from lmloss.lab.text import split_text as split_text
    from lmloss.lab.text import word_tokenizer as word_tokenizer

__all__ = [
    "VOCAB",
    "KnownLanguage",
    "SmolLM2",
    "Tokenizer",
    "batches",
    "bpe_tokenizer",
    "byte_tokenizer",
    "check",
    "evaluate",
    "figures",
    "known_language",
    "ngram",
    "real_text",
    "results",
    "small_transformer",
    "smollm2",
    "split_text",
    "train",
    "word_tokenizer",
]

_MODULES = {
    "VOCAB": "language",
    "KnownLanguage": "language",
    "SmolLM2": "pretrained",
    "Tokenizer": "text",
    "batches": "text",
    "bpe_tokenizer": "text",
    "byte_tokenizer": "text",
    "check": "exercises",
    "evaluate": "models",
    "known_language": "language",
    "ngram": "models",
    "real_text": "text",
    "small_transformer": "models",
    "smollm2": "pretrained",
    "split_text": "text",
    "train": "models",
    "word_tokenizer": "text",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lmloss.lab' has no attribute {name!r}")
    try:
        module = import_module(f"lmloss.lab.{_MODULES.get(name, name)}")
    except ModuleNotFoundError as error:
        missing = f"lmloss.lab.{name} needs {error.name}: install lmloss with its [book] extra"
        raise ModuleNotFoundError(missing, name=error.name) from None
    return module if name in {"figures", "results"} else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
