"""The house rules of the design, read from the sources: arrows, names, sizes, flags, docs."""

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hotloop

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src" / "hotloop").rglob("*.py"))
PYTHON = SOURCES + sorted((ROOT / "kernels").rglob("*.py"))
EVERYWHERE = PYTHON + sorted(
    path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
#: Room -> rooms it may import; CONTRIBUTING.md says why these.
ARROWS = {
    "__init__": {
        *("backends", "callbacks", "display", "estimators", "kernels", "many", "options"),
    },
    "callbacks": {"compat", "model_io"},
    "display": {"options"},
    "many": {"backends", "device_arrays"},
    "device_arrays": {"backends", "compat", "validate"},
    "estimators": {
        *("options", "validate", "model_io", "compat", "spec", "plan", "vectors", "train"),
        *("backends", "device_arrays", "estimators", "schedules"),
    },
    "options": {"spec", "schedules", "compat"},
    "schedules": set(),
    "train": {"plan", "vectors", "backends", "spec", "schedules"},
    "vectors": {"spec"},
    "backends": {"vectors", "plan", "kernels", "threads", "spec"},
    "elementwise": {"kernels"},
    "threads": set(),
    "plan": {"spec", "normalization", "matrices", "vectors", "kernels"},
    "matrices": set(),
    "normalization": {"spec", "vectors", "kernels"},
    "model_io": {"compat", "options", "train"},
    "validate": {"compat", "spec"},
    "compat": set(),
    "spec": set(),
    "kernels": {"kernels"},
}


def room_of(path):
    """Name of the room a source file belongs to."""
    if (ROOT / "kernels") in path.parents:
        return "kernels"
    inside = path.relative_to(ROOT / "src" / "hotloop")
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imported_rooms(path):
    """Rooms of hotloop a file imports, anywhere in it."""
    package = (
        ["hotloop", *path.relative_to(ROOT / "src" / "hotloop").parts[:-1]]
        if (ROOT / "src") in path.parents
        else ["hotloop", "kernels"]
    )
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            names = [module]
            if module == "hotloop":
                names = [f"hotloop.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "hotloop":
                yield parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_point_one_way(path):
    """A room imports only what CONTRIBUTING.md lets it."""
    room = room_of(path)
    assert room in ARROWS, f"{room} is a new room: say in CONTRIBUTING.md what it may import"
    wrong = set(imported_rooms(path)) - ARROWS[room]
    assert not wrong, f"{room} must not import {sorted(wrong)}"


def test_the_arrow_test_sees_every_way_to_import(tmp_path, monkeypatch):
    """Absolute, relative, of a submodule, within a function: none goes unseen."""
    folder = ROOT / "src" / "hotloop" / "estimators"
    text = (
        "import hotloop.backends\nfrom ..train import x\nfrom .. import spec\n"
        "def f():\n    from hotloop.kernels.engine import y\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda self: text)
    found = set(imported_rooms(folder / "imaginary.py"))
    assert found == {"backends", "train", "spec", "kernels"}


def test_only_backends_imports_the_engine():
    """The compiled engine has one door; plan.py takes the vocabulary only."""
    for path in SOURCES:
        if re.search(r"kernels\.engine|kernels import .*engine", path.read_text()):
            assert path.name == "backends.py"


@pytest.mark.parametrize("path", EVERYWHERE, ids=lambda p: str(p.relative_to(ROOT)))
def test_kernels_are_imported_by_their_full_name(path):
    """``import kernels`` works only from the repository's root, by accident."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        assert not [n for n in names if n.split(".")[0] == "kernels"]


def test_no_file_is_named_for_nothing():
    """No utils, core, common, helpers, base or misc."""
    names = {"utils", "core", "common", "helpers", "base", "misc"}
    for folder in ("src", "kernels", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*"):
            assert path.stem.lstrip("_") not in names, path


def code_lines(path):
    return len(path.read_text().splitlines())


def docstring_lines(tree):
    """Lines taken by docstrings of the module, its classes and functions."""
    lines = 0
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            node
        ):
            lines += node.body[0].end_lineno - node.body[0].lineno + 1
    return lines


@pytest.mark.parametrize("path", EVERYWHERE, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_longer_than_900_lines(path):
    """Docstrings not counted."""
    assert code_lines(path) - docstring_lines(ast.parse(path.read_text())) <= 900


@pytest.mark.parametrize(
    "path",
    sorted(
        p for p in (ROOT / "kernels").iterdir() if p.suffix in {".c", ".h", ".pyx", ".pxi", ".py"}
    ),
    ids=lambda p: p.name,
)
def test_no_kernel_file_is_longer_than_900_lines(path):
    """Generated C is not kept in the tree."""
    if path.suffix == ".c" and path.with_suffix(".pyx").exists():
        pytest.skip("generated by Cython, not a source")
    assert code_lines(path) <= 900


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_function_body_is_longer_than_60_lines(path):
    """Docstring apart; a signature is not the body."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 60, f"{node.name} has a body of {length} lines"


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_function_takes_more_than_seven_arguments(path):
    """More means a missing dataclass; constructors of estimators are scikit-learn's."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name != "__init__":
            a = node.args
            names = [x.arg for x in a.posonlyargs + a.args + a.kwonlyargs]
            names = [n for n in names if n not in ("self", "cls")]
            assert len(names) <= 7, f"{node.name}({', '.join(names)})"


def test_the_build_uses_no_flag_that_changes_bits_or_the_machine():
    """No reassociation, nothing chosen by the machine that builds."""
    text = (ROOT / "setup.py").read_text() + (ROOT / "pyproject.toml").read_text()
    for flag in ("-ffast-math", "-Ofast", "-march=native", "-fassociative", "-funsafe"):
        assert flag not in text
    assert "-ffp-contract=off" in text


def public_objects():
    """Everything hotloop exports, and the public methods of its classes."""
    for name in hotloop.__all__:
        thing = getattr(hotloop, name)
        yield name, thing
        if inspect.isclass(thing):
            for method, _ in inspect.getmembers(thing, callable):
                owner = next(c for c in thing.__mro__ if method in vars(c))
                if not method.startswith("_") and owner.__module__.startswith("hotloop"):
                    yield f"{name}.{method}", getattr(owner, method, vars(owner)[method])


def documented_parameters(doc):
    """Names in a numpydoc Parameters section, in order."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", doc, re.S | re.M)
    names = re.findall(r"^(\*{0,2}\w[\w, *]*?) ?(?::|$)", section[1], re.M) if section else []
    return [n.lstrip("*") for line in names for n in re.split(r", *", line)]


@pytest.mark.parametrize(
    ("name", "thing"), list(public_objects()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_documented_parameters_are_the_actual_ones(name, thing):
    """Same names, same order, nothing missing; every public object has a docstring."""
    doc = inspect.getdoc(thing)
    assert doc, f"{name} has no docstring"
    actual = [p for p in inspect.signature(thing).parameters if p not in ("self", "cls")]
    assert documented_parameters(doc) == actual


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_public_attributes_are_documented(name):
    """Each fitted attribute has its entry under Attributes."""
    import numpy as np

    estimator = getattr(hotloop, name)(max_iter=300, tol=1).fit(np.eye(4), [0, 1, 0, 1])
    doc = inspect.getdoc(type(estimator))
    section = re.search(r"^Attributes\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", doc, re.S | re.M)[1]
    documented = set(re.findall(r"^(\w+) ?:", section, re.M))
    fitted = {a for a in dir(estimator) if a.endswith("_") and not a.startswith("_")}
    assert fitted - documented == set()


IMPORT_PROBE = """
import os, random, signal, sys, threading, warnings
import numpy as np, scipy, sklearn.neural_network
def state():
    return {
        "filters": list(warnings.filters),
        "numpy": np.random.get_state()[1].tobytes(),
        "random": random.getstate(),
        "environ": dict(os.environ),
        "signals": {s: signal.getsignal(s) for s in signal.valid_signals()},
        "threads": [t.name for t in threading.enumerate()],
        "os threads": len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self") else 0,
        "errstate": np.geterr(),
        "directory": os.getcwd(),
        "path": list(sys.path),
        "subnormals": 5e-324 * 1.0,
    }
before, modules = state(), set(sys.modules)
import hotloop
after = state()
changed = [k for k in before if before[k] != after[k]]
assert not changed, changed
heavy = {"numba", "torch", "pandas", "matplotlib", "onnx"} & (set(sys.modules) - modules)
assert not heavy, heavy
"""


def test_importing_changes_nothing_in_the_process():
    """No filter, generator, variable, handler, thread or floating-point mode is touched."""
    child = subprocess.run(
        [sys.executable, "-c", IMPORT_PROBE],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout == ""
