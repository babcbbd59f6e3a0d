"""lmloss.numpy works in an environment that has NumPy and nothing else."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lmloss

PROGRAM = """
import sys
try:
    import torch
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("torch is here")
import numpy as np
import lmloss
import lmloss.numpy as ln
logits = np.array([[0.5, 2.0, 1.2], [1.3, 0.2, 2.5]])
value, gradient = ln.value_and_grad(ln.cross_entropy)(logits, np.array([1, 2]), label_smoothing=0.1)
assert gradient.shape == (2, 3)
assert ln.check_gradient(ln.causal_lm_loss, logits, np.array([1, 2])) < 1e-6
assert abs(ln.entropy(np.full(4, 0.25), base=2) - 2) < 1e-12
loss = ln.CrossEntropyLoss()
loss.forward(logits, np.array([1, 2]))
loss.backward()
foreign = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
print(sorted(name for name in foreign if not name.startswith("_") and hasattr(sys.modules[name], "__file__")))
"""


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A virtual environment whose one library is NumPy, beside lmloss."""
    root = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / "venv"], check=True)
    scripts = root / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    python = scripts / Path(sys.executable).name
    if not python.exists():
        python = scripts / "python"
    library = root / "library"
    library.mkdir()
    numpy_home = Path(np.__file__).parent
    for folder in (numpy_home, numpy_home.parent / "numpy.libs", Path(lmloss.__file__).parent):
        if folder.exists():
            (library / folder.name).symlink_to(folder, target_is_directory=True)

    def run(program):
        command = [python, "-I", "-c", f"import sys; sys.path.insert(0, {str(library)!r})\n{program}"]
        return subprocess.run(command, capture_output=True, text=True, cwd=root)

    return run


def test_the_reference_path_computes_losses_where_torch_is_not_installed(bare_python):
    result = bare_python(PROGRAM)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "['lmloss', 'numpy']"
    assert result.stderr == ""


def test_the_fast_path_says_what_is_missing(bare_python):
    result = bare_python("import lmloss.torch")
    assert result.returncode != 0
    assert "torch" in result.stderr.splitlines()[-1]
