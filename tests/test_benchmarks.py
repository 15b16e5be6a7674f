"""Benchmarks run, and the gate between two files of theirs must be able to go red."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
COMPARE = FOLDER / "compare.py"


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


NEEDS_COMPILER = pytest.mark.skipif(shutil.which("cc") is None, reason="its probe is in C")
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


def test_every_command_in_readme_is_run_by_one():
    """readme.py finds each command that stands beside a figure, and its program is there."""
    command = [sys.executable, FOLDER / "readme.py", "--list", "--data", "somewhere"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    listed = [line.split()[1:] for line in said.splitlines() if line.startswith("## ")]
    text = (FOLDER.parent / "README.md").read_text()
    assert len(listed) == text.count("\n    make bench") + text.count(
        "\n    .venv/bin/python bench"
    )
    assert all((FOLDER.parent / program).is_file() for program, *_ in listed)
    assert ["benchmarks/threads.py"] in listed
    assert any(words[-2:] == ["--data", "somewhere"] for words in listed)


@pytest.mark.parametrize(
    ("script", "options", "said"),
    [
        pytest.param(
            "estimators.py",
            "--rows 0 --dtype float32 --rounds 1 --peers hotloop --threads all",
            "| 1797x64 (100) 10 b200 float32 all threads |",
            id="estimators.py",
            marks=NEEDS_COMPILER,
        ),
        pytest.param(
            "threads.py", "--rows 0 --seconds 1", "All weights have the same bits.", id="threads.py"
        ),
        pytest.param(
            "searches.py",
            "--rows 0 --candidates 1",
            "threading, n_jobs=2 over n_jobs=1: ",
            id="searches.py",
        ),
        pytest.param(
            "bfloat16.py",
            "--rows 0 --rounds 1",
            "All within bounds.",
            id="bfloat16.py",
            marks=NEEDS_COMPILER,
        ),
        pytest.param(
            "sparse.py", "--cases step --epochs 1", "1,000,000 features: ", id="sparse.py"
        ),
        pytest.param("sparse.py", "--cases predict", "| 1000 float64 |", id="sparse.py predict"),
        pytest.param(
            "steps.py",
            "--cases P1 P8",
            "| P8 b256 128-128-128-10 float64 |",
            id="steps.py",
            marks=NEEDS_COMPILER,
        ),
        pytest.param(
            "predictions.py",
            "--cases P12 --peers hotloop sklearn",
            "| P12 1 x 64-128-128-10 float32 99th percentile |",
            id="predictions.py",
            marks=NEEDS_COMPILER,
        ),
        pytest.param("fixed_costs.py", "", "| P19 fit of one epoch", id="fixed_costs.py"),
        pytest.param(
            "grid.py",
            "--widths 32 64 --batches 32 --threads 1 2 --peers hotloop sklearn",
            "| 2, 64, 32 |",
            id="grid.py",
        ),
        pytest.param("import_time.py", "", "hotloop beyond scikit-learn: ", id="import_time.py"),
    ],
)
def test_script_runs(tmp_path, script, options, said):
    """In its smallest form it checks what it must, prints a table and writes records."""
    file = tmp_path / "out.jsonl"
    command = [sys.executable, FOLDER / script, *options.split(), "--processes", "1"]
    done = subprocess.run([*command, "--json", file], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({(one["case"], one["implementation"]) for one in records}) == len(records) > 0
    assert all(one["value"] > 0 and one["void"] is None for one in records)


@pytest.mark.parametrize(
    ("losses", "agree"),
    [
        pytest.param([{"a": 1.0, "b": 1.0009}, {"a": 2.0, "b": 2.0}], True, id="within"),
        pytest.param([{"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 2.003}], False, id="beyond"),
        pytest.param([{"a": 1.0, "b": 1.0}, {"a": 2.0, "b": float("nan")}], False, id="NaN"),
        pytest.param([{"a": 1.0, "b": 1.0}, {"a": float("nan"), "b": 2.0}], False, id="NaN first"),
    ],
)
def test_losses_that_differ_are_named(monkeypatch, losses, agree):
    """Those of the process where they do, which is not always the first."""
    monkeypatch.syspath_prepend(FOLDER)
    from records import why_losses_differ

    reason = why_losses_differ([{"loss": of_process} for of_process in losses])
    assert reason is None if agree else str(losses[1]) in reason


def test_heat_map_is_drawn(tmp_path):
    """A PNG, also where a cell is void."""
    pytest.importorskip("matplotlib")
    cells = "{(1, 32, 64): 1.5, (1, 64, 64): float('nan')}"
    code = f"import pathlib, grid; grid.draw(pathlib.Path('map.png'), {cells})"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(FOLDER)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120)
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
