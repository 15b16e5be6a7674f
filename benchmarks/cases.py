"""The training shapes that are measured, and the data they are measured on."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np


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
        """Useful arithmetic of an epoch: three products a layer, two for the first."""
        layers = zip(self.widths[:-1], self.widths[1:], strict=True)
        return sum(2.0 * self.n * i * o * (3 if k else 2) for k, (i, o) in enumerate(layers))


CASES = (
    Case(1797, 64, (100,), 10, 200, epochs=100),
    Case(10000, 20, (100,), 2, 200, epochs=40),
    Case(20000, 54, (256, 256), 7, 256, epochs=6),
    Case(10000, 784, (128,), 10, 128, epochs=8),
    Case(10000, 784, (512, 512), 10, 256, epochs=2),
    Case(20000, 100, (64, 64, 64), 2, 64, epochs=4),
    Case(8192, 1024, (1024, 1024), 10, 1024, epochs=2),
)


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
