"""The gate between two benchmark files must be able to go red."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMPARE = Path(__file__).parents[1] / "benchmarks" / "compare.py"


def record(case, value=1.0, sigma=0.001, implementation="hotloop", void=None):
    return {
        "case": case,
        "implementation": implementation,
        "unit": "ms/epoch",
        "value": value,
        "sigma": sigma,
        "void": void,
    }


def exit_status(folder, base, head):
    for name, records in (("base", base), ("head", head)):
        lines = [json.dumps(one) + "\n" for one in records]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    command = [sys.executable, COMPARE, folder / "base.jsonl", folder / "head.jsonl"]
    return subprocess.run(command, capture_output=True, timeout=60).returncode


BASE = [record("a"), record("b"), record("a", implementation="sklearn", value=5.0)]


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(BASE, id="the same"),
        pytest.param([record("a", 0.2), *BASE[1:]], id="faster"),
        pytest.param([record("a", 1.04), *BASE[1:]], id="within the threshold"),
        pytest.param([record("a", 1.2, sigma=0.1), *BASE[1:]], id="within the noise"),
        pytest.param([*BASE[:2], {**BASE[2], "value": 9.0}], id="another library is slower"),
    ],
)
def test_passes(tmp_path, head):
    assert exit_status(tmp_path, BASE, head) == 0


@pytest.mark.parametrize(
    ("base", "head"),
    [
        pytest.param(BASE, BASE[1:], id="a case was deleted"),
        pytest.param(BASE[1:], BASE, id="a case is new"),
        pytest.param(BASE, BASE[:2], id="another library's case was deleted"),
        pytest.param(BASE, [record("a", float("nan")), *BASE[1:]], id="not a number"),
        pytest.param(BASE, [record("a", None, void="losses"), *BASE[1:]], id="void"),
        pytest.param(BASE, [record("a", 1.2), *BASE[1:]], id="slower"),
        pytest.param([], [], id="nothing was measured"),
    ],
)
def test_fails(tmp_path, base, head):
    assert exit_status(tmp_path, base, head) == 1
