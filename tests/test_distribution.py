"""What is published: the source distribution builds, the wheel made of it is small and whole."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_BYTES = 5_000_000

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    # Elsewhere than in the root, whose folder `build` hides the module of that name.
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def wheel(folder):
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def source(folder):
    """The unpacked source distribution."""
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(path.parent for path in folder.glob("*/PKG-INFO"))


def files_below(folder, *patterns):
    """Relative paths of the files that one of the patterns matches."""
    found = {path.relative_to(folder) for p in patterns for path in folder.rglob(p)}
    return {path.as_posix() for path in found if "__pycache__" not in path.parts}


def test_the_wheel_has_the_modules_and_one_extension_and_nothing_else(wheel):
    """No C, no Cython and no C that Cython wrote; one file for all instruction sets. Of headers
    abi.h, which is read where there is none of those."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    extensions = {name for name in names if name.endswith((".so", ".pyd"))}
    assert len(extensions) == 1
    installed = files_below(ROOT / "src", "*.py", "py.typed")
    installed |= {f"hotloop/kernels/{name}" for name in files_below(ROOT / "kernels", "*.py")}
    assert names - extensions == installed | {"hotloop/kernels/abi.h"}


def test_the_wheel_is_small(wheel):
    assert wheel.stat().st_size <= MOST_BYTES


def test_the_source_distribution_has_every_source(source):
    """Packages, kernels, tests, and what make needs."""
    for name in ("src", "kernels", "tests", "benchmarks", "demo"):
        expected = files_below(ROOT / name, "*.py", "*.px[yi]", "*.[ch]", "*.md", "py.typed")
        assert expected <= files_below(source / name, "*")
    for name in ("Makefile", "LICENSE", "README.md", ".ci/run", "pyproject.toml", "setup.py"):
        assert (source / name).is_file()


def test_an_install_without_a_compiler_trains_on_numba(source, tmp_path):
    """From the source distribution, where C compilers fail: pure Python, and it fits."""
    venv.create(tmp_path, with_pip=True)
    python = tmp_path / ("Scripts" if os.name == "nt" else "bin") / "python"
    environment = {**os.environ, "CC": "false", "HOTLOOP_WITHOUT_EXTENSION": "1"}
    command = [python, "-m", "pip", "install", "-q", f"{source}[numba]"]
    subprocess.run(command, check=True, env=environment)
    code = (
        "import hotloop, numpy as np; from hotloop import backends, kernels\n"
        "X = np.eye(20); model = hotloop.MLPRegressor(max_iter=5).fit(X, X[:, 0])\n"
        "print(kernels.COMPILED, backends.chosen('auto'), model.predict(X).shape)"
    )
    command = [python, "-W", "ignore", "-c", code]
    said = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert said.stdout.split("\n")[0] == "False numba (20,)"


def test_what_an_empty_environment_gets_from_the_wheel_passes_the_tests(wheel, source, tmp_path):
    """Tests of the source distribution on the installed wheel."""
    venv.create(tmp_path, with_pip=True)
    python = tmp_path / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", f"{wheel}[test]"], check=True)
    command = [python, "-m", "pytest", "-q", "-m", "not slow"]
    child = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert child.returncode == 0, child.stdout[-5000:] + child.stderr[-5000:]
