"""On scikit-learn 1.7 and 1.8, which have no callbacks, everything else is there."""

import gc
import os
import subprocess
import sys
import weakref

import hotloop

#: Hides sklearn.callback from us, once scikit-learn itself is loaded.
CODE = """
import sys, warnings
import sklearn.model_selection, sklearn.preprocessing, sklearn.neural_network
sys.modules["sklearn.callback"] = None
import numpy as np, hotloop
from hotloop import compat
assert not compat.HAS_CALLBACKS
X, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
warnings.simplefilter("ignore")
for cls in (hotloop.MLPClassifier, hotloop.MLPRegressor):
    assert not hasattr(cls, "set_callbacks")
    for solver in ("adam", "sgd", "lbfgs"):
        cls(hidden_layer_sizes=(5,), solver=solver, max_iter=3).fit(X, y).predict(X)
    cls(early_stopping=True, max_iter=3).fit(X, y)
    repr(cls())
"""


def test_without_callbacks_the_estimators_work_and_have_no_set_callbacks():
    """A method that would do nothing is not offered."""
    child = subprocess.run(
        [sys.executable, "-c", CODE],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert child.returncode == 0, child.stderr


def test_names_of_parameters_do_not_keep_their_class():
    """And follow its __init__ if that is replaced."""

    class Local(hotloop.MLPRegressor):
        def __init__(self, alpha=0.1):
            super().__init__(alpha=alpha)

    assert [*Local().get_params()] == ["alpha"]

    def other(self, tol=0.1):
        hotloop.MLPRegressor.__init__(self, tol=tol)

    Local.__init__ = other
    assert [*Local().get_params()] == ["tol"]
    gone = weakref.ref(Local)
    del Local, other
    gc.collect()
    assert gone() is None
