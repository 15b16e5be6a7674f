"""Test scores of defaults and of one recipe, beside scikit-learn's MLP and HistGradientBoosting.

    python benchmarks/recipe.py [--data FOLDER] [--seeds 5] [--max-rows 20000] [--json out.jsonl]

Each set is split three to one by every seed, and made numbers of by the transformer of the demo:
medians for what is missing, one column a category, numbers standardised. All models see the same
rows; MLPs in float32, all else being their defaults but for the recipe, which is one for all sets.
Scores are accuracy or R2, means over the seeds; the last line counts the sets where the recipe is
above scikit-learn's MLP. Without --data the sets are scikit-learn's own.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import sklearn.neural_network
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

import hotloop
from records import append, new_parser, new_record, table_line

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))
from datasets import Dataset, bundled, from_folder

#: What to try first where the defaults are not good enough.
RECIPE: dict[str, Any] = {
    "hidden_layer_sizes": (256, 256),
    "solver": hotloop.AdamW(weight_decay=0.1),
    "learning_rate": hotloop.OneCycle(),
    "learning_rate_init": 2e-3,
    "dropout": 0.3,
    "averaging": hotloop.EMA(decay=0.99),
    "batch_size": 64,
    "max_iter": 40,
    "n_iter_no_change": np.inf,
}
#: And for a classifier.
SMOOTHED: dict[str, Any] = {"loss": hotloop.LogLoss(label_smoothing=0.1)}


def mlp(package: Any, regression: bool, seed: int, **parameters: Any) -> Any:
    """An MLP of a package."""
    kind = package.MLPRegressor if regression else package.MLPClassifier
    return kind(random_state=seed, **parameters)


def boosting(regression: bool, seed: int) -> Any:
    """Gradient boosting with its defaults."""
    kind = HistGradientBoostingRegressor if regression else HistGradientBoostingClassifier
    return kind(random_state=seed)


MODELS: dict[str, Callable[[bool, int], Any]] = {
    "sklearn MLP": lambda regression, seed: mlp(sklearn.neural_network, regression, seed),
    "hotloop": lambda regression, seed: mlp(hotloop, regression, seed),
    "recipe": lambda regression, seed: mlp(
        hotloop, regression, seed, **RECIPE, **({} if regression else SMOOTHED)
    ),
    "boosting": boosting,
}


def split(data: Dataset, seed: int) -> tuple:
    """Training and test rows as float32, and their targets."""
    strata = (
        None if data.regression or min(np.unique(data.y, return_counts=True)[1]) < 2 else data.y
    )
    parts = train_test_split(data.X, data.y, random_state=seed, stratify=strata)
    transformer = clone(data.transformer)
    train, test = transformer.fit_transform(parts[0]), transformer.transform(parts[1])
    if scipy.sparse.issparse(train):  # boosting takes no other
        train, test = train.toarray(), test.toarray()
    rows = tuple(np.ascontiguousarray(part, dtype=np.float32) for part in (train, test))
    return rows, parts[2:]


def measure(data: Dataset, seeds: int) -> dict[str, dict[str, list[float]]]:
    """Scores and seconds of every model on one set."""
    found: dict[str, dict[str, list[float]]] = {
        name: {"scores": [], "seconds": []} for name in MODELS
    }
    for seed in range(seeds):
        (train, test), (y_train, y_test) = split(data, seed)
        for name, make in MODELS.items():
            start = time.perf_counter()
            model = make(data.regression, seed).fit(train, y_train)
            found[name]["seconds"].append(time.perf_counter() - start)
            found[name]["scores"].append(model.score(test, y_test))
    return found


def main() -> int:
    """Print a line for each set."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    parser = new_parser(__doc__)
    parser.add_argument("--data", type=Path, help="a folder with a manifest, see demo/datasets.py")
    parser.add_argument("--sets", nargs="+", help="names of sets (all)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--max-rows", type=int, default=20_000)
    arguments = parser.parse_args()
    sources = from_folder(arguments.data, arguments.max_rows) if arguments.data else bundled()
    print(table_line(["set", *MODELS]))
    print(table_line(["---"] * (1 + len(MODELS))))
    records, won = [], []
    for name, read in sources.items():
        if arguments.sets and name not in arguments.sets:
            continue
        found = measure(read(), arguments.seeds)
        means = {model: statistics.mean(values["scores"]) for model, values in found.items()}
        seconds = {model: statistics.median(values["seconds"]) for model, values in found.items()}
        cells = [f"{means[m]:.4f}, {seconds[m]:.3g} s" for m in MODELS]
        print(table_line([name, *cells]), flush=True)
        won.append(means["recipe"] > means["sklearn MLP"])
        records += [
            new_record(f"recipe {name}", model, "score", values["scores"], None)
            for model, values in found.items()
        ]
    print(f"\nThe recipe is above scikit-learn's MLP on {sum(won)} of {len(won)} sets.")
    append(arguments.json, records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
