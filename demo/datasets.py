"""The sets the demo trains on: scikit-learn's own, a generated one, and those of a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import TransformerMixin
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, make_classification
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler


@dataclass(frozen=True)
class Dataset:
    """Features, target, and the transformer that makes numbers of the features.

    Attributes
    ----------
    name : str
    X : ndarray, DataFrame or Series of texts; n rows
    y : ndarray of shape (n,)
        Class labels, or the standardised target of a regression.
    regression : bool
    transformer : transformer
        Goes into the pipeline before the network.
    max_iter : int
        Epochs at most; chosen so that the demo takes a minute or two.
    """

    name: str
    X: Any
    y: np.ndarray
    regression: bool
    transformer: TransformerMixin
    max_iter: int

    @property
    def shape(self) -> str:
        """Rows x features, or rows of text."""
        columns = self.X.shape[1] if self.X.ndim > 1 else "text"
        return f"{self.X.shape[0]} x {columns}"

    @property
    def measure(self) -> str:
        """What the score is."""
        return "R2" if self.regression else "accuracy"


#: Reads a set when it is its turn, so that one that cannot be read does not stop the others.
Source = Callable[[], Dataset]


def bundled() -> dict[str, Source]:
    """Name scikit-learn's digits, breast cancer and diabetes, and a generated set."""
    return {
        "digits": lambda: _classes("digits", load_digits, 100),
        "breast cancer": lambda: _classes("breast cancer", load_breast_cancer, 200),
        "diabetes": _diabetes,
        "generated": _generated,
    }


def from_folder(folder: Path, max_rows: int) -> dict[str, Source]:
    """Name the sets that ``manifest.json`` of a folder lists.

    Each entry has a name, a kind (``tabular``, ``image`` or ``text``), a file and a task
    (``binary``, ``multiclass`` or ``regression``). A tabular file is a CSV whose target column and
    category columns the entry names; an image file is an ``.npz`` with ``X`` and ``y``; a text
    file is a CSV with ``text`` and ``label``.

    Parameters
    ----------
    folder : Path
    max_rows : int
        Larger sets are cut to so many random rows.

    Raises
    ------
    FileNotFoundError
        If the folder has no manifest.
    """
    entries = json.loads((folder / "manifest.json").read_text())["datasets"]
    return {entry["name"]: partial(_read, folder, entry, max_rows) for entry in entries}


def _classes(name: str, load: Callable, max_iter: int) -> Dataset:
    return Dataset(name, *load(return_X_y=True), False, StandardScaler(), max_iter)


def _diabetes() -> Dataset:
    X, y = load_diabetes(return_X_y=True)
    return Dataset("diabetes", X, _standardised(y), True, StandardScaler(), 200)


def _generated() -> Dataset:
    X, y = make_classification(
        50_000, 20, n_informative=10, n_classes=2, n_clusters_per_class=4, random_state=0
    )
    return Dataset("generated", X.astype(np.float32), y, False, StandardScaler(), 15)


def _read(folder: Path, entry: dict, max_rows: int) -> Dataset:
    X, y, transformer = _READERS[entry["kind"]](folder / entry["file"], entry)
    rows = np.random.default_rng(0).permutation(len(y))[:max_rows]
    X, y = (X.iloc[rows] if hasattr(X, "iloc") else X[rows]), np.asarray(y)[rows]
    regression = entry["task"] == "regression"
    if regression:
        y = _standardised(y.astype(float))
    return Dataset(entry["name"], X, y, regression, transformer, 30)


def _standardised(y: np.ndarray) -> np.ndarray:
    return (y - y.mean()) / y.std()


def _read_table(path: Path, entry: dict) -> tuple:
    strings = dict.fromkeys(entry["categorical"], str)
    table = pd.read_csv(path, dtype=strings, keep_default_na=False, na_values=[""])
    categories = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="missing"),
        OneHotEncoder(handle_unknown="ignore", max_categories=30, sparse_output=False),
    )
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    transformer = make_column_transformer(
        (categories, entry["categorical"]),
        (numbers, make_column_selector(dtype_include="number")),
    )
    return table.drop(columns=entry["target"]), table[entry["target"]], transformer


def _read_images(path: Path, entry: dict) -> tuple:
    with np.load(path) as arrays:
        X, y = arrays["X"], arrays["y"]
    return X.reshape(len(X), -1).astype(np.float32) / 255, y, StandardScaler(with_std=False)


def _read_texts(path: Path, entry: dict) -> tuple:
    table = pd.read_csv(path, keep_default_na=False)
    return table["text"], table["label"], TfidfVectorizer(max_features=2000, dtype=np.float32)


_READERS = {"tabular": _read_table, "image": _read_images, "text": _read_texts}
