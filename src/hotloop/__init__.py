"""Neural networks for scikit-learn, trained by compiled loops.

``from hotloop import MLPClassifier, MLPRegressor`` replaces the same import from
``sklearn.neural_network``: the same parameters, attributes and results, sooner.
"""

from .backends import config, show_config
from .display import LearningRateFinderDisplay, LossCurveDisplay, WeightDistributionDisplay
from .estimators.mlp import MLPClassifier, MLPRegressor
from .many import fit_many
from .options import (
    Cosine,
    SGD,
    StepDecay,
    RMSprop,
    OneCycle,
    Polynomial,
    Warmup,
    CosineRestarts,
    Lion,
    Adam,
    Adaptive,
    Adagrad,
    AdamW,
    EMA,
    NAdam,
    SWA,
    Exponential,
    InvScaling,
)

__all__ = [
    "Adagrad",
    "Adam",
    "AdamW",
    "Adaptive",
    "Cosine",
    "CosineRestarts",
    "EMA",
    "Exponential",
    "InvScaling",
    "LearningRateFinderDisplay",
    "Lion",
    "LossCurveDisplay",
    "MLPClassifier",
    "MLPRegressor",
    "NAdam",
    "OneCycle",
    "Polynomial",
    "RMSprop",
    "SGD",
    "SWA",
    "StepDecay",
    "Warmup",
    "WeightDistributionDisplay",
    "config",
    "fit_many",
    "show_config",
]
__version__ = "0.1.0"
