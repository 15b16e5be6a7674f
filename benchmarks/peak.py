"""Measures what one core allows: multiply-adds a second for each instruction set, and a copy.

    python benchmarks/peak.py

The probe is compiled when it is run (`cc`, or what CC says), so it needs a C compiler.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

#: Compiler flags for each instruction set, the widest first, and for what extends one.
AVX512 = ["-mavx512f", "-mfma", "-mprefer-vector-width=512"]
X86_FLAGS = {
    "avx512": AVX512,
    "avx2": ["-mavx2", "-mfma"],
    "baseline": [],
    "avx512_bf16": [*AVX512, "-mavx512bf16"],
}
FLAGS_BY_MACHINE = {"x86_64": X86_FLAGS, "AMD64": X86_FLAGS}
FLAGS_BY_MACHINE |= {arm: {"neon": []} for arm in ("aarch64", "arm64", "ARM64")}
FLAGS = FLAGS_BY_MACHINE.get(platform.machine(), {"baseline": []})


def compile_c(source: Path, flags: list[str]) -> Path:
    """Compile one C file to a program in a temporary folder that is left to the system.

    Raises
    ------
    RuntimeError
        If there is no C compiler.
    """
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        raise RuntimeError(f"no C compiler: {compiler!r} is not there; install one or set CC.")
    program = Path(tempfile.mkdtemp(prefix="hotloop-bench-")) / source.stem
    subprocess.run([compiler, *flags, str(source), "-o", str(program), "-lm"], check=True)
    return program


@cache
def _probe(instruction_set: str) -> Path:
    flags = ["-std=gnu11", "-O2", "-ffp-contract=fast", *FLAGS[instruction_set]]
    return compile_c(Path(__file__).with_name("peak.c"), flags)


def measure(instruction_set: str) -> dict[str, float] | None:
    """Run the probe for one instruction set; takes about half a second.

    Returns
    -------
    dict or None
        GFLOP/s under ``"float32"`` and ``"float64"``, for ``"avx512_bf16"`` also under
        ``"bfloat16"``, GB/s (read and written) under ``"copy"``; None where this CPU lacks the
        instruction set.
    """
    answer = subprocess.run([_probe(instruction_set)], capture_output=True, text=True)
    return json.loads(answer.stdout) if answer.returncode == 0 else None


def widest() -> str:
    """Name the widest instruction set that this CPU runs."""
    return next(name for name in FLAGS if measure(name) is not None)


def main() -> None:
    print(f"{'one core':12}{'float32':>14}{'float64':>14}{'copy':>12}{'bfloat16':>14}")
    for name in FLAGS:
        rates = measure(name)
        if rates is None:
            print(f"{name:12}  this CPU has no such instructions")
        else:
            single, double, copy = (rates[key] for key in ("float32", "float64", "copy"))
            pairs = f"{rates['bfloat16']:9.1f} GF/s" if "bfloat16" in rates else ""
            print(f"{name:12}{single:9.1f} GF/s{double:9.1f} GF/s{copy:7.1f} GB/s{pairs}")


if __name__ == "__main__":
    main()
