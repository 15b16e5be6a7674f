"""scikit-learn 1.9's callback protocol: what callbacks are told, and that they may stop a fit."""

import pickle
import warnings

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import hotloop
from state import state_of

callback = pytest.importorskip(
    "sklearn.callback", reason=f"scikit-learn {sklearn.__version__} has no sklearn.callback"
)

X, y = load_iris(return_X_y=True)
every_class = pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
every_solver = pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def new(name="MLPClassifier", **parameters):
    parameters = {"hidden_layer_sizes": (9,), "max_iter": 6, "random_state": 0, **parameters}
    return getattr(hotloop, name)(**parameters)


class Recorder:
    """Notes every hook; may ask to stop, or raise, when an iteration ends."""

    def __init__(self, *, stop_at=None, fail_at=None, fail_with=None):
        self.stop_at, self.fail_at, self.fail_with = stop_at, fail_at, fail_with
        self.events, self.scores, self.given = [], [], None

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(
        self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None
    ):
        self.events.append(("end", context.task_name, context.task_id))
        if context.parent is None:
            return False
        self.given = X, y, metadata
        self.scores.append(fitted_estimator.score(X, y))
        if context.task_id == self.fail_at:
            raise self.fail_with
        return context.task_id == self.stop_at

    @property
    def iterations(self):
        return [e[2] for e in self.events if e[0] == "end" and e[1] == "iteration"]


@every_solver
@every_class
def test_every_iteration_is_told_in_order(name, solver):
    """setup, fit begins, each iteration begins and ends, fit ends, teardown."""
    recorder = Recorder()
    estimator = new(name, solver=solver).set_callbacks(recorder).fit(X, y)
    n = estimator.n_iter_
    assert n > 1
    iterations = [(what, "iteration", k) for k in range(n) for what in ("begin", "end")]
    assert recorder.events == [
        "setup",
        ("begin", "fit", 0),
        *iterations,
        ("end", "fit", 0),
        "teardown",
    ]


@every_solver
@every_class
def test_a_callback_changes_no_bit_of_the_fit(name, solver):
    """Watched or not, the result is the same."""
    plain = new(name, solver=solver).fit(X, y)
    watched = new(name, solver=solver).set_callbacks(Recorder()).fit(X, y)
    for attribute, value in vars(plain).items():
        assert state_of(value) == state_of(vars(watched)[attribute]), attribute


@every_class
def test_callbacks_get_the_data_and_an_estimator_ready_to_predict(name):
    """X, y, metadata as given; the fitted estimator is that of the epoch."""
    recorder, w = Recorder(), np.linspace(0.5, 1, 150)
    estimator = new(name, max_iter=30).set_callbacks(recorder).fit(X, y, sample_weight=w)
    given_X, given_y, metadata = recorder.given
    assert given_X is X
    assert given_y is y
    np.testing.assert_array_equal(metadata["sample_weight"], w)
    assert len(recorder.scores) == estimator.n_iter_
    assert recorder.scores[-1] == estimator.score(X, y)
    assert recorder.scores[0] != recorder.scores[-1]
    half = new(name, max_iter=15).fit(X, y, sample_weight=w)
    assert recorder.scores[14] == half.score(X, y)


@every_solver
@every_class
def test_a_request_to_stop_is_honoured(name, solver):
    """The fit ends after that iteration, without a warning about convergence, usable."""
    recorder = Recorder(stop_at=2)
    estimator = new(name, solver=solver).set_callbacks(recorder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator.fit(X, y)
    assert estimator.n_iter_ == 3
    assert recorder.iterations == [0, 1, 2]
    assert recorder.events[-2:] == [("end", "fit", 0), "teardown"]
    assert np.isfinite(estimator.predict(X)).all()


@every_solver
@every_class
@pytest.mark.parametrize("error", [RuntimeError("on purpose"), ValueError("on purpose")])
def test_an_exception_in_a_callback_comes_out_and_leaves_the_old_state(name, solver, error):
    """Every attribute as before; teardown is called."""
    estimator = new(name, solver=solver).fit(X, y)
    before = {k: state_of(v) for k, v in vars(estimator).items()}
    recorder = Recorder(fail_at=1, fail_with=error)
    estimator.set_callbacks(recorder)
    with pytest.raises(type(error), match="on purpose"):
        estimator.fit(X[:, :2], y)
    assert recorder.events[-1] == "teardown"
    estimator.set_callbacks()
    assert {k: state_of(v) for k, v in vars(estimator).items()} == before


@every_class
def test_partial_fit_is_a_fit_of_one_iteration(name):
    """That is how its callbacks see each call."""
    recorder = Recorder()
    extra = {"classes": [0, 1, 2]} if name == "MLPClassifier" else {}
    new(name).set_callbacks(recorder).partial_fit(X, y, **extra).partial_fit(X, y)
    assert recorder.iterations == [0, 0]
    assert recorder.events.count("teardown") == 2


def test_callbacks_do_not_make_an_estimator_unpicklable():
    """A fitted, watched estimator pickles; a clone keeps no fitted state."""
    monitor = callback.ScoringMonitor(scoring="accuracy")
    estimator = new().set_callbacks(monitor).fit(X, y)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(estimator)).predict(X), estimator.predict(X)
    )
    assert not hasattr(clone(estimator), "coefs_")


def test_scoring_monitor_logs_every_epoch():
    """scikit-learn's own callback: one row an epoch, the last that of the fitted estimator."""
    monitor = callback.ScoringMonitor(scoring="accuracy")
    estimator = new(max_iter=20).set_callbacks(monitor).fit(X, y)
    log = monitor.get_logs(select="most_recent")
    scores = [row["accuracy"] for row in log.data if row["task_name"] == "iteration"]
    assert len(scores) == 20
    assert scores[-1] == estimator.score(X, y)


def test_progress_bar_shows_the_epochs(capsys):
    """scikit-learn's own callback runs and prints to stdout."""
    pytest.importorskip("rich", reason="ProgressBar needs rich")
    new(max_iter=20).set_callbacks(callback.ProgressBar()).fit(X, y)
    assert "MLPClassifier" in capsys.readouterr().out


def test_callbacks_work_within_a_pipeline_and_a_grid_search():
    """Set on the step; each fit of the search is logged."""
    monitor = callback.ScoringMonitor(scoring="accuracy")
    pipeline = make_pipeline(StandardScaler(), new().set_callbacks(monitor))
    search = GridSearchCV(pipeline, {"mlpclassifier__alpha": [0.0, 0.1]}, cv=2).fit(X, y)
    assert search.best_score_ > 0
    assert monitor.get_logs()


@every_solver
def test_a_callback_that_runs_out_of_something_is_not_a_wish_to_stop(solver):
    """SciPy takes any StopIteration for one."""
    recorder = Recorder(fail_at=2, fail_with=StopIteration("mine"))
    with pytest.raises(StopIteration, match="mine"):
        new(solver=solver).set_callbacks(recorder).fit(X, y)
