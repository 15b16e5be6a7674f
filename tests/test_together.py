"""What steps, layers and losses do together: independent implementations agree on all of it."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss

from hotloop import LogLoss, MLPClassifier, backends

X, y = load_digits(return_X_y=True)
X, y = X[:130] / 16, y[:130]
STEPS = {
    "adam": {},
    "adamw": {"solver": "adamw"},
    "amsgrad": {"solver": "amsgrad"},
    "lion": {"solver": "lion"},
    "average": {"averaging": "ema"},
    "clipped": {"clip_norm": 0.5},
    "limited": {"max_norm": 1.0},
    "l1": {"l1_ratio": 0.5, "alpha": 0.1},
    "all": {"solver": "adamw", "averaging": "ema", "clip_norm": 0.5, "max_norm": 2.0},
}
LAYERS = {
    "batch": {"normalization": "batch"},
    "layer": {"normalization": "layer"},
    "dropped": {"normalization": "batch", "dropout": 0.3, "activation": "gelu"},
    "mixed": {"normalization": "layer", "dropout": 0.2, "mixup": 0.4, "input_noise": 0.1},
    "frozen": {"normalization": "batch", "frozen_layers": [0], "loss": "focal"},
    "in order": {"mixup": 0.4, "shuffle": False},
    "weighted": {"dropout": 0.5, "class_weight": "balanced", "learning_rate": "cosine"},
}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
needs_numba = pytest.mark.skipif(
    backends.why_unavailable("numba") is not None, reason=str(backends.why_unavailable("numba"))
)


def learnt(**parameters):
    """All that a fit has learnt, as one vector."""
    how = {"hidden_layer_sizes": (16, 9), "max_iter": 3, "batch_size": 48, "random_state": 0}
    model = MLPClassifier(**{**how, **parameters}).fit(X, y)
    names = ("coefs_", "intercepts_", "norm_scales_", "norm_means_", "norm_variances_")
    arrays = [array for name in names for array in vars(model).get(name, ())]
    return np.concatenate([array.ravel() for array in arrays] + [model.loss_curve_])


@needs_numba
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("steps", STEPS)
def test_two_implementations_learn_the_same(steps, layers):
    """The compiled kernels and numba's, which have no line in common."""
    how = {**STEPS[steps], **LAYERS[layers]}
    compiled, other = learnt(**how, backend="compiled"), learnt(**how, backend="numba")
    assert np.linalg.norm(compiled - other) <= 1e-9 * np.linalg.norm(compiled)


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("steps", ["average", "all"])
def test_bits_do_not_depend_on_threads(steps, layers, always_shared):
    """One thread, two, or four of which some wait for a processor."""
    how = {**STEPS[steps], **LAYERS[layers], "backend": "compiled"}
    alone = learnt(**how, n_jobs=1)
    for n_jobs in (2, 4):
        np.testing.assert_array_equal(learnt(**how, n_jobs=n_jobs), alone)
        assert max(always_shared) == n_jobs


@pytest.mark.parametrize("backend", ["compiled", pytest.param("numba", marks=needs_numba)])
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("averaging", [None, "ema", "swa"])
def test_what_is_judged_is_what_is_handed_out(averaging, layers, backend):
    """The best score of validation rows is that of the fitted model, an average or not."""
    how = {**LAYERS[layers], "averaging": averaging, "backend": backend}
    model = MLPClassifier((16, 9), max_iter=4, batch_size=48, random_state=0, **how)
    model.set_params(scoring="neg_log_loss", early_stopping=True).fit(X, y, X_val=X, y_val=y)
    assert max(model.validation_scores_) == pytest.approx(
        -log_loss(y, model.predict_proba(X)), rel=1e-12
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.4])
def test_validation_rows_are_smoothed_as_those_of_training(smoothing):
    """Two classes, by the formula of the loss."""
    two = y % 2
    model = MLPClassifier(loss=LogLoss(label_smoothing=smoothing), max_iter=2, random_state=0)
    model.fit(X, two, X_val=X, y_val=two)
    p, target = model.predict_proba(X)[:, 1], two * (1 - smoothing) + smoothing / 2
    entropy = -(target * np.log(p) + (1 - target) * np.log1p(-p)).mean()
    assert min(model.validation_loss_curve_) == pytest.approx(entropy, rel=1e-12)


def test_every_part_changes_what_is_learnt():
    """No case above is another one by mistake."""
    found = [learnt(**how, backend="compiled")[:100] for how in (*STEPS.values(), *LAYERS.values())]
    for k, one in enumerate(found):
        assert all(not np.allclose(one, other) for other in found[:k])
