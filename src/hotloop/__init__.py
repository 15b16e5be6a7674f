"""Neural networks for scikit-learn, trained by compiled loops.

``from hotloop import MLPClassifier, MLPRegressor`` replaces the same import from
``sklearn.neural_network``: the same parameters, attributes and results, sooner.
"""

from .backends import config, show_config
from .callbacks import Checkpoint, MLflowLogger, OptunaPruning
from .display import LearningRateFinderDisplay, LossCurveDisplay, WeightDistributionDisplay
from .estimators.mlp import MLPClassifier, MLPRegressor
from .many import fit_many
from .options import (
    EMA,
    SGD,
    SWA,
    Adagrad,
    Adam,
    AdamW,
    Adaptive,
    BatchNorm,
    Cosine,
    CosineRestarts,
    Exponential,
    Focal,
    Huber,
    InvScaling,
    LayerNorm,
    Lion,
    LogLoss,
    Muon,
    NAdam,
    OneCycle,
    Polynomial,
    Quantile,
    RMSprop,
    StepDecay,
    Tweedie,
    Warmup,
)

__all__ = [
    "EMA",
    "SGD",
    "SWA",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adaptive",
    "BatchNorm",
    "Checkpoint",
    "Cosine",
    "CosineRestarts",
    "Exponential",
    "Focal",
    "Huber",
    "InvScaling",
    "LayerNorm",
    "LearningRateFinderDisplay",
    "Lion",
    "LogLoss",
    "LossCurveDisplay",
    "MLPClassifier",
    "MLPRegressor",
    "MLflowLogger",
    "Muon",
    "NAdam",
    "OneCycle",
    "OptunaPruning",
    "Polynomial",
    "Quantile",
    "RMSprop",
    "StepDecay",
    "Tweedie",
    "Warmup",
    "WeightDistributionDisplay",
    "config",
    "fit_many",
    "show_config",
]
__version__ = "0.1.0"
