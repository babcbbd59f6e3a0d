"""How nbval holds a notebook against a fresh run of it."""

import sys

import pytest

import notebooks

PINNED = (3, 11)
ON_PINNED = sys.version_info[:2] == PINNED


def pytest_terminal_summary(terminalreporter, config):
    """Say what was not compared."""
    if config.option.nbval and not ON_PINNED:
        terminalreporter.write_line(
            f"Python {sys.version_info.major}.{sys.version_info.minor} brings another real text than the pinned "
            "3.11: cells tagged real-text were run, their outputs were not compared."
        )


def pytest_collection_modifyitems(items):
    """Compare what a notebook stores, its normal form, with what the same code would store now."""
    for item in items:
        if type(item).__name__ == "IPyNbCell":
            item.compare_outputs = _compare_normal(item.compare_outputs)
            if not ON_PINNED and "real-text" in notebooks.tags(item.cell):
                item.options["check"] = False


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    """Keep a history, as Jupyter does: without one, IPython ignores the semicolon that hides a cell's value."""
    if type(item).__name__ == "IPyNbCell":
        client = item.parent.kernel.kc
        client.execute = _with_history(type(client).execute.__get__(client))


def _compare_normal(compare):
    return lambda test, reference: compare(notebooks.normal_outputs(test), reference)


def _with_history(execute):
    return lambda code, **options: execute(code, **{**options, "store_history": True})
