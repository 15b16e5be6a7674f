"""The training shapes that are measured, and the data they are measured on."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


def training_flops(rows: int, widths: tuple[int, ...]) -> float:
    """Useful arithmetic of training on so many rows: three products a layer, two for the first."""
    return sum(2.0 * rows * i * o * (3 if k else 2) for k, (i, o) in enumerate(pairwise(widths)))


@dataclass(frozen=True)
class Case:
    """One training shape.

    Attributes
    ----------
    n, d : int
        Rows and features.
    hidden : tuple of int
        Widths of the hidden layers.
    classes : int
        Number of classes; two are trained through one logistic output.
    batch : int
        Rows of a minibatch.
    epochs : int
        Epochs that are timed, beyond the first.
    """

    n: int
    d: int
    hidden: tuple[int, ...]
    classes: int
    batch: int
    epochs: int

    @property
    def name(self) -> str:
        widths = ",".join(map(str, self.hidden))
        return f"{self.n}x{self.d} ({widths}) {self.classes} b{self.batch}"

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths from the input to the output."""
        return (self.d, *self.hidden, 1 if self.classes == 2 else self.classes)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return -(-self.n // self.batch)

    @property
    def flops(self) -> float:
        """Useful arithmetic of an epoch."""
        return training_flops(self.n, self.widths)


CASES = (
    Case(1797, 64, (100,), 10, 200, epochs=100),
    Case(10000, 20, (100,), 2, 200, epochs=40),
    Case(20000, 54, (256, 256), 7, 256, epochs=6),
    Case(10000, 784, (128,), 10, 128, epochs=8),
    Case(10000, 784, (512, 512), 10, 256, epochs=2),
    Case(20000, 100, (64, 64, 64), 2, 64, epochs=4),
    Case(8192, 1024, (1024, 1024), 10, 1024, epochs=2),
)


@dataclass(frozen=True)
class Step:
    """A training step with Adam and a softmax, or one logistic output.

    Attributes
    ----------
    batch : int
        Rows.
    widths : tuple of int
        From the input to the output.
    aim : tuple of int
        Percent of the peak that must be, and that is reached for.
    instruction_set : str or None
        The one that is forced.
    """

    batch: int
    widths: tuple[int, ...]
    aim: tuple[int, int]
    dtype: str = "float32"
    instruction_set: str | None = None

    def __str__(self) -> str:
        forced = f" {self.instruction_set}" if self.instruction_set else ""
        return f"b{self.batch} {'-'.join(map(str, self.widths))} {self.dtype}{forced}"

    @property
    def flops(self) -> float:
        """Useful arithmetic of the step."""
        return training_flops(self.batch, self.widths)


#: The steps whose speed is aimed at, by the number of the aim.
STEPS = {
    "P1": Step(256, (128, 128, 128, 10), (85, 89)),
    "P2": Step(256, (784, 128, 128, 10), (80, 89)),
    "P3": Step(200, (64, 128, 128, 10), (80, 89)),
    "P4": Step(64, (64, 64, 64, 10), (68, 76)),
    "P5": Step(32, (32, 32, 32, 10), (45, 55)),
    "P6a": Step(256, (256, 256, 256, 10), (84, 92)),
    "P6b": Step(256, (512, 512, 512, 10), (80, 89)),
    "P6c": Step(1024, (1024, 1024, 1024, 10), (75, 85)),
    "P7a": Step(1024, (256, 256, 256, 10), (82, 90)),
    "P7b": Step(4096, (64, 256, 256, 10), (82, 90)),
    "P8": Step(256, (128, 128, 128, 10), (80, 88), dtype="float64"),
    "P9": Step(256, (128, 128, 128, 10), (76, 86), instruction_set="avx2"),
}


def make_data(case: Case, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Uniform features, and labels of a random linear teacher, a fifth of them random.

    The random ones keep the loss away from zero, where two equal runs would differ most.

    Returns
    -------
    X : ndarray of shape (n, d) and `dtype`, C-contiguous
    y : ndarray of shape (n,), int64
    """
    rng = np.random.default_rng(0)
    X = rng.uniform(-1.5, 1.5, (case.n, case.d))
    y = (X @ rng.standard_normal((case.d, case.classes))).argmax(axis=1)
    noisy = rng.random(case.n) < 0.2
    y[noisy] = rng.integers(case.classes, size=noisy.sum())
    return X.astype(dtype), y


def add_rows(parser: argparse.ArgumentParser, default: tuple[int, ...] | None = None) -> None:
    """Add the option ``--rows``: numbers of the cases to measure, all of them by default."""
    rows = range(len(CASES))
    parser.add_argument("--rows", type=int, nargs="+", choices=rows, default=default or rows)
