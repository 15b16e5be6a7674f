"""scikit-learn's own MLP tests pass with our classes in the place of theirs."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import sklearn

#: Items of sklearn/neural_network/tests/test_mlp.py where the number is known.
N_ITEMS = {"1.9.1": 59}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """Attributes of the run's JUnit report, and what it printed."""
    folder = tmp_path_factory.mktemp("sklearn_suite")
    (folder / "pytest.ini").write_text("[pytest]\n")
    report = folder / "report.xml"
    child = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "sklearn_suite_plugin"),
            *("-p", "no:cacheprovider", "-c", str(folder / "pytest.ini")),
            *(f"--junitxml={report}", "--pyargs", "sklearn.neural_network.tests.test_mlp"),
        ],
        cwd=folder,
        env=child_path(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert report.exists(), child.stdout + child.stderr
    return ET.parse(report).getroot().find("testsuite").attrib, child.stdout


def child_path():
    """This environment with tests/ importable, for the plugin."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"}
    paths = [str(Path(__file__).parent), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


def test_sklearns_suite_passes_whole(suite):
    """No failure, no error, no skip: 59 of 59 on scikit-learn 1.9.1."""
    counts, printed = suite
    assert (counts["failures"], counts["errors"], counts["skipped"]) == ("0", "0", "0"), printed
    n_items = int(counts["tests"])
    assert n_items == N_ITEMS.get(sklearn.__version__, n_items)
    assert n_items > 50
