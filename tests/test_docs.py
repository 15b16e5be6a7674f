"""The README's Python blocks and the docstrings' examples run and give what they say."""

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import hotloop

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```python\n(.*?)^```", re.S | re.M)


def blocks(name):
    """Fenced Python blocks of a page, with the line each starts at."""
    text = (ROOT / name).read_text() if (ROOT / name).exists() else ""
    return [(text[: m.start()].count("\n") + 1, m[1]) for m in FENCE.finditer(text)]


PAGES = ("README.md", "CONTRIBUTING.md", "kernels/README.md")


@pytest.mark.parametrize(
    ("page", "line"), [(page, line) for page in PAGES for line, _ in blocks(page)]
)
def test_a_python_block_runs_by_itself(page, line, tmp_path):
    """Copied into a file of its own, in another folder, warnings being errors but convergence."""
    code = dict(blocks(page))[line]
    (tmp_path / "snippet.py").write_text(code)
    child = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-W", "ignore::UserWarning:hotloop"),
            *("-c", RUN.format(path=str(tmp_path / "snippet.py"))),
        ],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert child.returncode == 0, f"{page}, line {line}:\n{child.stderr}"


RUN = """
import runpy, warnings
from sklearn.exceptions import ConvergenceWarning
warnings.simplefilter("ignore", ConvergenceWarning)
warnings.filterwarnings("ignore", "Creating an ndarray from ragged")  # scikit-learn 1.7, NumPy 1.23
runpy.run_path({path!r}, run_name="__main__")
"""


def test_the_readme_has_blocks():
    """They are found, and the drop-in import is among them."""
    assert any("from hotloop import" in code for _, code in blocks("README.md"))


def doctests():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for info in [None, *pkgutil.walk_packages(hotloop.__path__, "hotloop.")]:
        name = info.name if info else "hotloop"
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:  # of a backend that is not installed
            if error.name in ("numba", "llvmlite"):
                continue
            raise
        for test in finder.find(module, name):
            if test.examples:
                yield test


DOCTESTS = list(doctests())


@pytest.mark.parametrize("test", DOCTESTS, ids=lambda t: t.name)
def test_a_docstring_example_gives_what_it_says(test):
    """Numbers to the digits that are printed."""
    runner = doctest.DocTestRunner(
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS, verbose=False
    )
    said = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


@pytest.mark.parametrize(
    "name",
    [
        *(f"{c}.{m}" for c in ("MLPClassifier", "MLPRegressor") for m in ("", "predict")),
        "MLPClassifier.predict_proba",
        "MLPClassifier.decision_function",
    ],
)
def test_the_main_public_objects_have_an_example(name):
    """A class and its main methods show how they are used."""
    name = name.rstrip(".")
    assert any(test.name.endswith(f".{name}") for test in DOCTESTS), name


def test_an_example_that_lies_is_noticed():
    """The doctest runner can fail."""
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    with pytest.raises(AssertionError):
        test_a_docstring_example_gives_what_it_says(wrong)


def documented(kind):
    """Each parameter of a class with its entry, papers instead of their numbers."""
    text = inspect.cleandoc(kind.__doc__)
    papers = dict(re.findall(r"^\.\. \[(\d+)\] (.*?)(?=\n\.\. \[|\n\n|\Z)", text, re.S | re.M))
    body = text.split("Parameters\n----------\n")[1].split("\nAttributes\n")[0]
    entries = re.findall(r"^(\w+) : (.*?)(?=^\w+ : |\Z)", body, re.S | re.M)
    cited = re.compile(r"\[(\d+)\]_")
    return {name: cited.sub(lambda m: papers[m[1]], entry).split() for name, entry in entries}


def test_parameters_of_both_perceptrons_are_documented_alike():
    """Word for word and paper for paper, but where they differ."""
    one, other = documented(hotloop.MLPClassifier), documented(hotloop.MLPRegressor)
    different = {name for name in one.keys() & other.keys() if one[name] != other[name]}
    assert different == {"loss", "early_stopping", "scoring"}
    assert other.keys() < one.keys()
