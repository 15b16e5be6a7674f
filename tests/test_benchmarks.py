"""Benchmarks run, and the gate between two files of theirs must be able to go red."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from hotloop import backends

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


NEEDS_NUMBA = pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")
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
            marks=[NEEDS_COMPILER, pytest.mark.compiled],
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
        pytest.param(
            "gpu.py", "--hidden 4 --batch 5 --many 2", "2 models", id="gpu.py", marks=NEEDS_NUMBA
        ),
        pytest.param("import_time.py", "", "hotloop beyond scikit-learn: ", id="import_time.py"),
    ],
)
def test_script_runs(tmp_path, script, options, said):
    """In its smallest form it checks what it must, prints a table and writes records."""
    file = tmp_path / "out.jsonl"
    command = [sys.executable, FOLDER / script, *options.split(), "--processes", "1"]
    command += ["--json", file]
    how = {"env": {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}} if script == "gpu.py" else {}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **how)
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


class Streams:
    """As much of ``torch.cuda`` as a capture needs, on the CPU: what is captured runs when the
    graph is replayed, over the same tensors.
    """

    def __init__(self, step):
        self.step, self.captures, self.captured = step, False, None

    def run(self, *args):
        """The step that is captured."""
        if self.captures:
            self.captured = args
        else:
            self.step(*args)

    def Stream(self):
        return self

    def current_stream(self):
        return self

    def wait_stream(self, other):
        pass

    @contextmanager
    def stream(self, side):
        yield

    def CUDAGraph(self):
        return self

    @contextmanager
    def graph(self, graph):
        self.captures = True
        yield
        self.captures = False

    def replay(self):
        self.step(*self.captured)


def test_a_replayed_step_is_the_step(monkeypatch):
    """Warm-up and capture leave a model as it was, and a replay reads the rows it is given."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: no graph to check")
    monkeypatch.syspath_prepend(FOLDER)
    gpu = importlib.import_module("gpu")
    results = []
    for captured in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.Adam(model.parameters())
        batches = torch.randn(4, 5, 3)
        targets = torch.randint(2, (4, 5))

        def step(rows, target, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(rows), target).backward()
            optimizer.step()

        if captured:
            fake = Streams(step)
            monkeypatch.setattr(torch, "cuda", fake)
            step = gpu._captured(fake.run, model, optimizer, batches[0], targets[0])
        for rows, target in zip(batches, targets, strict=True):
            step(rows, target)
        moments = [m for p in model.parameters() for m in optimizer.state[p].values()]
        results.append([*model.parameters(), *moments])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_pytorch_on_the_same_steps_has_the_same_losses(monkeypatch):
    """The two ways to train that need no GPU: the comparison of all is one of equals."""
    pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    monkeypatch.syspath_prepend(FOLDER)
    gpu = importlib.import_module("gpu")
    made = gpu.problem((7, 7), 9)
    one = gpu.hotloop_trainer(backends.kernels.DEFAULT_BACKEND, *made)
    two = gpu.torch_trainer(False, *made, device="cpu")
    for epochs in (1, 3):
        assert one(epochs) == pytest.approx(two(epochs), rel=1e-5)


def test_heat_map_is_drawn(tmp_path):
    """A PNG, also where a cell is void."""
    pytest.importorskip("matplotlib")
    cells = "{(1, 32, 64): 1.5, (1, 64, 64): float('nan')}"
    code = f"import pathlib, grid; grid.draw(pathlib.Path('map.png'), {cells})"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(FOLDER)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120)
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
