"""scikit-learn's multi-layer perceptrons: the same classes, parameters and results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import update_wrapper
from types import MethodType
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import log_expit, log_softmax
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import d2_pinball_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_array, check_consistent_length, column_or_1d

from .. import device_arrays, spec, validate
from ..compat import StrOptions, fit_context
from ..options import (
    CLASSIFIER_LOSSES,
    REGRESSOR_LOSSES,
    Focal,
    LogLoss,
    Quantile,
    chosen,
)
from ..validate import Heads, Labels, TrainingData
from . import watching
from .exclusive import exclusive
from .perceptron import Array, MultilayerPerceptron

#: Losses of a classifier whose outputs are no probabilities.
HINGES = ("hinge", "squared_hinge")
#: Losses of a regressor that are objects.
_LOSS_OBJECTS = {name: kind for name, kind in REGRESSOR_LOSSES.items() if isinstance(kind, type)}


class _OfProbabilities:
    """A method that there is only where outputs are probabilities: scikit-learn's `available_if`
    at a fraction of its cost, which would be half that of predicting a row.
    """

    def __init__(self, method: Any) -> None:
        self.method = method
        update_wrapper(self, method)  # type: ignore[arg-type]

    def __get__(self, classifier: Any, owner: type) -> Any:
        if classifier is None:
            return self.method
        link = classifier.__dict__.get("out_activation_")
        if link == "identity" or (link is None and classifier.loss in HINGES):
            raise AttributeError(
                f"This {owner.__name__!r} has no attribute {self.method.__name__!r}: outputs are "
                f"no probabilities under {' and '.join(map(repr, HINGES))}. Use decision_function, "
                "fit with loss='log_loss', or calibrate (sklearn.calibration."
                "CalibratedClassifierCV)."
            )
        return MethodType(self.method, classifier)


class MLPClassifier(ClassifierMixin, MultilayerPerceptron):
    """Multi-layer perceptron classifier.

    Takes the place of :class:`sklearn.neural_network.MLPClassifier`: same parameters, same
    random stream, same result up to rounding, in a fraction of the time. It minimises the
    log-loss through a softmax for three classes or more, through the logistic function for
    two classes and for indicator matrices. A y of several columns of class labels ("multiclass-
    multioutput") has a softmax for each column over outputs of its own, in one network, and the
    sum of their log-losses.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int of shape (n_layers - 2,), default=(100,)
        Units of each hidden layer, from input to output. Empty for none, which makes a
        linear model.
    activation : str, callable, (callable, callable) or list of such, default='relu'
        Activation of the hidden layers, or a list with one for each. By name:

        - 'identity', 'relu', 'logistic', 'tanh': ``z``, ``max(0, z)``,
          ``s(z) = 1 / (1 + exp(-z))``, ``tanh(z)``, as scikit-learn has them.
        - 'leaky_relu', 'elu', 'selu': ``z`` above zero, and below ``0.01 * z``, ``exp(z) - 1``; the
          last is 1.0507 times ``z`` or ``1.6733 * (exp(z) - 1)`` [4]_ [5]_ [6]_.
        - 'gelu', 'gelu_tanh': ``z * Phi(z)`` with the normal distribution Phi, and its
          approximation ``z / 2 * (1 + tanh(sqrt(2 / pi) * (z + 0.044715 * z ** 3)))`` [7]_.
        - 'silu' (also known as swish), 'mish', 'softplus': ``z * s(z)``, ``z * tanh(softplus(z))``,
          ``log(1 + exp(z))`` [7]_ [8]_ [9]_.
        - 'softsign', 'hard_sigmoid', 'hard_swish': ``z / (1 + abs(z))``,
          ``max(0, min(6, z + 3)) / 6``, and ``z`` times that [10]_ [11]_.

        Or a function of one number, or a pair of it and its derivative. numba
        compiles it (``pip install 'hotloop[numba]'``) in a second or two, and
        :mod:`hotloop.elementwise` has functions to make it of that are as fast as the kernels.
        A derivative that is not given is computed, with a warning: by complex steps, or by
        differences where the function compares, branches or calls what has no complex form.
        One that is given is compared with differences.
    solver : str or Solver, default='adam'
        How the weights are found: in mini-batches by 'adam' or stochastic gradient descent
        ('sgd'), or by 'lbfgs', a quasi-Newton method over all rows at once, which often is
        the best choice for small data sets. Beyond scikit-learn's, all in mini-batches: 'adamw',
        'nadam', 'amsgrad', 'rmsprop', 'adagrad', 'lion', 'muon' (orthogonal steps between hidden
        layers), or an object with its own parameters, decoupled weight decay among them:
        :class:`~hotloop.SGD`, :class:`~hotloop.Adam`, :class:`~hotloop.AdamW`,
        :class:`~hotloop.NAdam`, :class:`~hotloop.RMSprop`, :class:`~hotloop.Adagrad`,
        :class:`~hotloop.Lion`, :class:`~hotloop.Muon`. Beside an object, `momentum`,
        `nesterovs_momentum`, `beta_1`, `beta_2` and `epsilon` are left alone; a name takes those
        that its object has with the same default. What is said below of 'sgd' and 'adam' goes for
        all of these, but for `momentum` and so on.
    alpha : float, default=0.0001
        Strength of the L2 penalty on the weights (not the biases),
        ``alpha / 2 * sum(w ** 2)``, divided by the sum of sample weights in the batch; see
        `l1_ratio`. It is part of the loss, whatever the solver.
    batch_size : int or 'auto', default='auto'
        Rows in a mini-batch; 'auto' is ``min(200, n_samples)``. Not used by 'lbfgs'.
    learning_rate : str or Schedule, default='constant'
        How the rate changes. scikit-learn's 'constant' (it stays); 'invscaling' (it is
        ``learning_rate_init / (t_ + 1) ** power_t`` from each epoch's end on); 'adaptive' (it is
        divided by 5 instead of stopping when `n_iter_no_change` says so, until it is below
        1e-6): 'adam' ignores the last two names, as it does there. And for all stochastic
        solvers 'step', 'exponential', 'cosine', 'cosine_restarts', 'one_cycle', 'polynomial',
        'warmup', or an object with its own parameters: :class:`~hotloop.InvScaling`,
        :class:`~hotloop.Adaptive`, :class:`~hotloop.StepDecay`, :class:`~hotloop.Exponential`,
        :class:`~hotloop.Cosine`, :class:`~hotloop.CosineRestarts`, :class:`~hotloop.OneCycle`,
        :class:`~hotloop.Polynomial`, and :class:`~hotloop.Warmup` before any of them. They end
        with the last of `max_iter` epochs; each `partial_fit` is one epoch.
    learning_rate_init : float, default=0.001
        Step size at the start, of 'sgd' and 'adam'.
    power_t : float, default=0.5
        The exponent of 'invscaling'.
    max_iter : int, default=200
        Epochs at most; for 'lbfgs' iterations.
    shuffle : bool, default=True
        Whether 'sgd' and 'adam' go through the rows in a new order in every epoch.
    random_state : int, RandomState instance or None, default=None
        Decides on the initial weights, the rows of early stopping and the orders of
        epochs. An int gives the same result every time, and the one that scikit-learn's
        class gives for it.
    tol : float, default=1e-4
        Loss (or what `early_stopping` watches) has to improve by this much to count as improved;
        for 'lbfgs' the largest gradient entry at which it stops.
    verbose : bool, default=False
        Whether to print every epoch's loss, and the score of validation rows.
    warm_start : bool, default=False
        Whether `fit` starts from the weights there are instead of random ones.
    momentum : float, default=0.9
        Of 'sgd', between 0 and 1.
    nesterovs_momentum : bool, default=True
        Whether that momentum is Nesterov's.
    early_stopping : bool, default=False
        Whether stochastic solvers set rows aside, stop by the score on those (`scoring`), and keep
        the weights of the best epoch. For two classes the split is stratified, for more or an
        indicator matrix it is not. If X_val and y_val are passed to `fit` they take the place of
        rows set aside, also for 'lbfgs'.
    validation_fraction : float, default=0.1
        Share of the rows that early stopping sets aside, in [0, 1).
    beta_1 : float, default=0.9
        Decay rate of the first moment in 'adam', in [0, 1).
    beta_2 : float, default=0.999
        Decay rate of the second moment in 'adam', in [0, 1).
    epsilon : float, default=1e-8
        Added to the root of the second moment in 'adam'.
    n_iter_no_change : int or inf, default=10
        Epochs in a row that may fail to improve before 'sgd' and 'adam' stop.
    max_fun : int, default=15000
        Evaluations of the loss at most, by 'lbfgs'.
    precision : {'auto', 'float32', 'float64', 'bfloat16', 'bfloat16_emulated'}, default='auto'
        What is computed with: 'auto' follows X (float32 for float32, else float64), the
        others force. 'lbfgs' computes in float64 and rounds the result.

        'bfloat16' is for 'adam' and 'sgd' on processors with AVX512_BF16 and an error
        elsewhere; `hotloop.show_config()` tells. `fit` and `partial_fit` round weights,
        activations and gradients of activations to bfloat16 where they multiply matrices, and
        sum in float32, in which everything else is: `coefs_`, the moments of the solver, the
        loss, predictions and validation scores, and a first layer on sparse X.
        'bfloat16_emulated' does the same on any processor by float32 arithmetic, with the same
        products to the bit, and is slower than 'float32'.
    n_jobs : int or None, default=None
        Threads that share the work of `fit` and of predictions; the result has the same bits
        for any number. None and -1 stand for all processors that the process may use, or
        fewer if OMP_NUM_THREADS says so (joblib sets it in its workers), -2 for all but one.
        Never more than there are, nor than 256; the environment variable HOTLOOP_NUM_THREADS
        stands in for what there is. One in a daemonic process, as those of a
        ``multiprocessing.Pool`` are. Fits side by side share the processors.
    sparse_updates : {'exact', 'lazy'}, default='exact'
        What 'sgd' and 'adam' do, on sparse X, with the weights of a feature in batches that have
        nothing of it. 'exact': what they would do on the same X if it were dense, though later:
        when the feature comes up again, or the weights are read. 'lazy': nothing, so that
        momentum, moments and `alpha` work on a feature only in batches that have it; it is
        sooner, and another result.
    backend : {'auto', 'compiled', 'numba'}, default='auto'
        Who computes: the compiled kernels, or others that need numba
        (``pip install 'hotloop[numba]'``), take half a minute for each precision to compile when
        they are first used on a machine, have one thread whatever `n_jobs` says, and are 5 to 15
        times slower on it. Results are the same up to rounding. 'numba' has no bfloat16, and
        answers an interrupt after the step. 'auto' is 'compiled', but 'numba' in an install
        without compiled kernels, or what the environment variable HOTLOOP_BACKEND names.
    loss : {'log_loss', 'focal', 'hinge', 'squared_hinge'}, LogLoss, Focal, callable or \
            (callable, callable), default='log_loss'
        What is minimised, the mean over rows. :class:`LogLoss` smooths labels, :class:`Focal` has
        the parameters of 'focal'. 'hinge' is ``max(0, 1 + r - z)``, where z is the output of the
        right class and r the largest of the others [15]_, as `sklearn.metrics.hinge_loss` has it;
        for two classes and each label of an indicator matrix it is ``max(0, 1 - s z)``, where s is
        1 or -1. 'squared_hinge' is its square. Under both, outputs are not probabilities: there is
        no `predict_proba`, and `decision_function` is what the last layer makes. Losses of several
        labels are summed. For several columns of classes 'log_loss' and :class:`LogLoss` only.

        For two classes and indicator matrices it may be a function ``f(y, z)``
        of a label, 0 or 1, and an output before the logistic function (what `decision_function`
        returns), or a pair of it and its derivative by ``z``; summed over labels. It is compiled
        and tried as an `activation` is. Probabilities are ``1 / (1 + exp(-z))``.
    device : {'cpu', 'cuda', 'auto'}, default='cpu'
        Where to compute, in `fit` and in predictions. 'cuda' is an Nvidia GPU, by kernels that
        need numba (``pip install 'hotloop[cuda]'``); it computes in float32 and float64, has
        `backend` 'auto' only, and the result is that of the CPU up to rounding. Where there is no
        GPU it is an error: set 'cpu' to predict there with a model that was trained on one. See
        :func:`hotloop.fit_many` for many small models at once. 'auto' takes a GPU, if there is
        one, for steps (or predictions) of at least 5 MFLOP, which is 6 (2) times rows times
        weights: below that the CPU is done sooner.

        With 'cuda', arrays of CuPy, torch, numba and others that lie on the GPU are taken, by
        ``__cuda_array_interface__`` or DLPack. X is not copied, so it must be C-contiguous and of
        float32 or float64 (where the other is computed with, it is converted there); y and sample
        weights are copied to the host. With 'cpu' and 'auto' they are an error. Predictions and
        fitted attributes are NumPy arrays; under
        ``sklearn.set_config(array_api_dispatch=True)`` predictions are copied to X's device, as
        arrays of X's library (of numba, if scikit-learn does not know that library), except for
        labels that are strings or sparse.
    class_weight : dict, list of dict, 'balanced' or None, default=None
        Weights of classes by label, by which those of samples are multiplied; 1 for a label that is
        not there. 'balanced' gives all classes the same weight in sum: that of all samples, divided
        by the number of classes and by the weight of the samples of a class (their number, if
        there is no `sample_weight`, as `sklearn.utils.class_weight.compute_class_weight` has it).
        For an indicator matrix a list of dicts of the weights of 0 and 1, one a label, and for
        several columns of classes one a column; or 'balanced' for each. The weights of a sample's
        labels are multiplied. They count in scores of rows that `early_stopping` sets aside, too;
        rows of X_val have the weights that are passed with them alone. `partial_fit`, which does
        not see all samples, takes no 'balanced'.
    dropout : float or array-like of float of shape (n_layers - 2,), default=0.0
        The rate in [0, 1) at which each training step drops outputs of hidden layers: each is 0
        with that probability, else ``1 / (1 - dropout)`` times what it would be, so that its mean
        stays (Srivastava et al. 2014, "Dropout", JMLR 15, sections 4 and 10). One rate for all
        hidden layers, or one for each. Predictions drop nothing, and so do scores of
        `early_stopping`. What is dropped is up to `random_state` alone: it is the same on every
        backend and any number of threads. Not for 'lbfgs', like the next three.
    input_dropout : float, default=0.0
        The same rate for the inputs. Needs a dense X.
    input_noise : float, default=0.0
        Standard deviation of the normal numbers that each training step adds to all inputs,
        before it drops any. Needs a dense X, and columns that are scaled alike.
    mixup : float, default=0.0
        Mixes rows in pairs (Zhang et al. 2018, "mixup", ICLR, section 2): each step trains on
        ``m * x_i + (1 - m) * x_j`` by the loss
        ``m * w_i * loss(y_i) + (1 - m) * w_j * loss(y_j)``, w being sample weights. m is drawn
        from Beta(mixup, mixup) for each step; i are the rows of the batch, in random order, j is
        half a batch further on. 0 mixes nothing; 0.1 to 0.4 are usual. Noise and dropout come
        after it. Needs a dense X.
    normalization : {'batch', 'layer'}, BatchNorm, LayerNorm or None, default=None
        What the sums z of each hidden layer become before the activation:
        ``norm_scales_ * (z - mean) / sqrt(variance + epsilon) + intercepts_``. 'batch' takes
        mean and variance of each unit over the rows of a batch, whatever their `sample_weight`;
        predictions and validation scores take `norm_means_` and `norm_variances_`, averages over
        the batches. A batch of one row becomes `intercepts_`, and says nothing of a variance: a
        last batch of so few is better avoided by `batch_size`. Not for 'lbfgs'. 'layer' takes
        them of each row over the units. Not for bfloat16. :class:`BatchNorm` and
        :class:`LayerNorm` have the parameters, and say where it is from.
    l1_ratio : float, default=0.0
        The part of the penalty that is L1, between 0 and 1, as in scikit-learn's ElasticNet:
        ``alpha * (l1_ratio * sum(|w|) + (1 - l1_ratio) / 2 * sum(w ** 2))``. Its slope is
        ``sign(w)``, 0 at 0; weights come close to zero rather than to it. Not for 'lbfgs'.
    max_norm : float or None, default=None
        Largest Euclidean norm of the weights that come into a unit, of every layer, the output
        layer's too: columns of `coefs_` that are longer after a step are shrunk to it [16]_. Not
        for 'lbfgs', nor for sparse X.
    clip_norm : float or None, default=None
        Largest Euclidean norm of the gradient of all weights and biases together, the penalty
        included: a longer one is multiplied by ``clip_norm / (norm + 1e-6)``, as PyTorch's
        ``clip_grad_norm_`` does [17]_. Not for 'lbfgs', nor for sparse X.
    clip_value : float or None, default=None
        Largest absolute value of an element of the gradient, the penalty included: larger ones are
        set to it, after `clip_norm`. Not for 'lbfgs'.
    init : {'auto', 'glorot_uniform', 'glorot_normal', 'he_uniform', 'he_normal', 'lecun_uniform', \
            'lecun_normal', 'orthogonal'} or pair of lists of array-like, default='auto'
        How weights are drawn, with ``I`` inputs and ``O`` outputs of a layer: with variance
        ``2 / (I + O)`` [1]_, ``2 / I`` [12]_ or ``1 / I`` [13]_, uniform or normal; or a matrix
        with orthogonal columns (rows, if these are fewer) of length 1, and of ``sqrt(2)`` under
        'relu' and its like [14]_. Biases begin at zero. 'auto' goes by each layer's activation,
        the output layer by that of the last hidden one. For scikit-learn's four, and for
        functions, it is scikit-learn's very draw ('glorot_uniform', of the biases, too); else
        'he_normal', but 'lecun_normal' for 'selu' and 'glorot_uniform' for 'softsign' and
        'hard_sigmoid'.
        A pair is the weights and the biases of each layer to start from, as `coefs_` and
        `intercepts_` of a fitted estimator; nothing is drawn then. With `normalization` what it
        has learnt may follow: ``(coefs_, intercepts_, norm_scales_)``, for 'batch' with
        `norm_means_` and `norm_variances_` after that; else it begins with scales of 1, means of 0
        and variances of 1.
    averaging : {'ema', 'swa'}, EMA, SWA or None, default=None
        Hands out an average of the weights instead of the last ones: 'ema' or
        :class:`~hotloop.EMA`, a moving average over steps, which goes on in `partial_fit`; 'swa' or
        :class:`~hotloop.SWA`, the mean over the last epochs. `loss_curve_` is of the weights that
        training goes on with. Not for 'lbfgs'.
    frozen_layers : array-like of int or None, default=None
        Layers whose weights and biases stay as they are, from 0, the first after the input, to
        -1, the output layer. For `init`, `warm_start` or `partial_fit` to start from weights
        that were learnt elsewhere.
    scoring : str, callable or None, default=None
        What is watched after every epoch on validation rows, those that `early_stopping` sets
        aside or X_val and y_val of `fit`. None: the accuracy. 'loss': the negative of
        the mean loss that is trained by, without the penalty. Else the name of a scorer of
        scikit-learn, or a function of (estimator, X, y), which is called with a fitted estimator,
        with rows as they were given, and with ``sample_weight`` if there are weights and it takes
        any; these take one more prediction an epoch. 'lbfgs' looks at X_val, too, after each
        iteration.
    max_time_s : float or None, default=None
        Seconds that `fit` may take, from its start: it ends after the epoch, or iteration of
        'lbfgs', in which they are over, with a ConvergenceWarning. None is no limit. Not looked at
        by `partial_fit`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,) or list of ndarray
        The class labels in ascending order; column numbers for an indicator matrix. For several
        columns of classes a list with those of each.
    loss_ : float
        Loss of the last epoch (mean over rows, penalty included), or at L-BFGS' end.
    best_loss_ : float or None
        The smallest loss of an epoch; None with early stopping. Not set by 'lbfgs', like
        `loss_curve_`.
    loss_curve_ : list of float
        Loss of each epoch, over all calls that went on from each other.
    validation_scores_ : list of float or None
        Accuracy of each epoch, or what `scoring` says, on the validation rows; None without any.
        For scoring='loss' the negative of the loss: larger is better. Set by 'lbfgs' for X_val, as
        are the next two.
    best_validation_score_ : float or None
        The largest of them.
    validation_loss_curve_ : list of float or None
        Mean loss of the validation rows after each epoch, without the penalty.
    t_ : int
        Samples that have gone by in training.
    coefs_ : list of ndarray of shape (n_in, n_out)
        Weights of each layer, of the dtype that was computed with. All arrays here and in
        `intercepts_` are row-major views of one vector; edit or replace them as you like.
    intercepts_ : list of ndarray of shape (n_out,)
        Biases of each layer.
    norm_scales_ : list of ndarray of shape (n_out,)
        Factors of each hidden layer; set with a `normalization`. They and the next two are views
        of the same vector, to edit as you like.
    norm_means_ : list of ndarray of shape (n_out,)
        Means that predictions normalise each hidden layer by; set with batch normalization.
    norm_variances_ : list of ndarray of shape (n_out,)
        The variances, those without bias; set with batch normalization.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features; set if X had names that are strings.
    n_iter_ : int
        Epochs, or iterations of L-BFGS, of the last call.
    device_ : {'cpu', 'cuda'}
        Where the last call computed.
    n_layers_ : int
        Number of layers, the input counted as one.
    n_outputs_ : int
        Number of outputs.
    out_activation_ : str
        Activation of the output layer: 'softmax' or 'logistic', or 'identity' under hinges;
        'softmaxes' for several columns of classes, which have consecutive outputs each.

    See Also
    --------
    MLPRegressor : The same for numbers.

    Notes
    -----
    With scikit-learn 1.9 or later, callbacks given by ``set_callbacks`` are told of every
    epoch, by ``partial_fit`` of its one, and may stop the training.

    References
    ----------
    .. [1] Glorot, X. and Bengio, Y. (2010), "Understanding the difficulty of training deep
       feedforward neural networks", AISTATS. Initial weights: equation 16.
    .. [2] Kingma, D. and Ba, J. (2014), "Adam: A method for stochastic optimization",
       arXiv:1412.6980. Algorithm 1, as rewritten at the end of section 2.
    .. [3] Sutskever, I., Martens, J., Dahl, G. and Hinton, G. (2013), "On the importance of
       initialization and momentum in deep learning", ICML. Section 2.
    .. [4] Maas, A., Hannun, A. and Ng, A. (2013), "Rectifier nonlinearities improve neural network
       acoustic models", ICML.
    .. [5] Clevert, D.-A., Unterthiner, T. and Hochreiter, S. (2016), "Fast and accurate deep
       network learning by exponential linear units (ELUs)", ICLR.
    .. [6] Klambauer, G., Unterthiner, T., Mayr, A. and Hochreiter, S. (2017), "Self-normalizing
       neural networks", NeurIPS.
    .. [7] Hendrycks, D. and Gimpel, K. (2016), "Gaussian error linear units (GELUs)",
       arXiv:1606.08415.
    .. [8] Misra, D. (2020), "Mish: A self regularized non-monotonic activation function", BMVC.
    .. [9] Dugas, C. et al. (2001), "Incorporating second-order functional knowledge for better
       option pricing", NeurIPS.
    .. [10] Bergstra, J. et al. (2009), "Quadratic polynomials learn better image features",
       Technical Report 1337, Universite de Montreal.
    .. [11] Howard, A. et al. (2019), "Searching for MobileNetV3", ICCV. Section 5.2.
    .. [12] He, K., Zhang, X., Ren, S. and Sun, J. (2015), "Delving deep into rectifiers", ICCV.
       Equation 10.
    .. [13] LeCun, Y., Bottou, L., Orr, G. and Mueller, K.-R. (1998), "Efficient BackProp", in
       Neural Networks: Tricks of the Trade. Equation 16.
    .. [14] Saxe, A., McClelland, J. and Ganguli, S. (2014), "Exact solutions to the nonlinear
       dynamics of learning in deep linear neural networks", ICLR. Section 3.
    .. [15] Crammer, K. and Singer, Y. (2001), "On the algorithmic implementation of multiclass
       kernel-based vector machines", JMLR 2.
    .. [16] Srivastava, N. et al. (2014), "Dropout: A simple way to prevent neural networks from
        overfitting", JMLR 15. Section 5.1.
    .. [17] Pascanu, R., Mikolov, T. and Bengio, Y. (2013), "On the difficulty of training recurrent
        neural networks", ICML. Algorithm 1.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.model_selection import train_test_split
    >>> from hotloop import MLPClassifier
    >>> X, y = make_classification(n_samples=100, random_state=1)
    >>> X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=1)
    >>> clf = MLPClassifier(random_state=1, max_iter=300).fit(X_train, y_train)
    >>> clf.predict_proba(X_test[:1]).round(2)
    array([[0.04, 0.96]])
    >>> clf.predict(X_test[:5])
    array([1, 0, 1, 0, 1])
    >>> clf.score(X_test, y_test)
    0.88
    """

    classes_: Array | list[Array]
    _label_kind: str
    _sparse_labels: bool

    _own_scoring = "accuracy"

    _parameter_constraints: ClassVar[dict] = {
        **MultilayerPerceptron._parameter_constraints,
        "loss": [
            StrOptions({*CLASSIFIER_LOSSES, *HINGES}),
            *(LogLoss, Focal),
            *(callable, tuple),
        ],
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        precision="auto",
        n_jobs=None,
        sparse_updates="exact",
        backend="auto",
        loss="log_loss",
        device="cpu",
        class_weight=None,
        dropout=0.0,
        input_dropout=0.0,
        input_noise=0.0,
        mixup=0.0,
        normalization=None,
        l1_ratio=0.0,
        max_norm=None,
        clip_norm=None,
        clip_value=None,
        init="auto",
        averaging=None,
        frozen_layers=None,
        scoring=None,
        max_time_s=None,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.precision = precision
        self.n_jobs = n_jobs
        self.sparse_updates = sparse_updates
        self.backend = backend
        self.loss = loss
        self.device = device
        self.class_weight = class_weight
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.input_noise = input_noise
        self.mixup = mixup
        self.normalization = normalization
        self.l1_ratio = l1_ratio
        self.max_norm = max_norm
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.init = init
        self.averaging = averaging
        self.frozen_layers = frozen_layers
        self.scoring = scoring
        self.max_time_s = max_time_s

    @property
    def _labels(self) -> Labels | Heads:
        """What the fitted classes mean."""
        if self.out_activation_ == "softmaxes":
            return Heads(tuple(self.classes_))
        kind = "multiclass" if self.out_activation_ == "softmax" else "multilabel-indicator"
        if self.out_activation_ == "logistic" and self.n_outputs_ == 1:
            kind = "binary"
        if self.out_activation_ == "identity":
            kind = self._label_kind
        classes: Any = self.classes_
        return Labels(classes, kind, vars(self).get("_sparse_labels", False))

    @property
    def _labels_of_heads(self) -> Any:
        """The labels, where there are several columns of them."""
        return self._labels

    def _heads(self) -> tuple[int, ...]:
        return self._labels_of_heads.widths if self.out_activation_ == "softmaxes" else ()

    def _require_whole(self) -> None:
        """Raise ValueError unless the labels, too, fit the outputs."""
        super()._require_whole()
        if "classes_" not in vars(self):
            return
        several = isinstance(self.classes_, list)
        labels: Any = self._labels if several == (self.out_activation_ == "softmaxes") else None
        columns: Any = self.classes_ if several else [self.classes_]
        wrong = [c for c in columns if c.ndim != 1 or not c.size]
        if labels is None or wrong or labels.n_outputs != self.n_outputs_:
            raise ValueError(
                f"classes_ are {self.classes_!r:.200}, which does not fit {self.n_outputs_} outputs"
                f" through {self.out_activation_!r}."
            )
        if labels.kind == "binary" and len(self.classes_) > 2:
            raise ValueError(f"{len(self.classes_)} classes do not fit 1 output.")
        kind, several_labels = self._label_kind, self._label_kind == "multilabel-indicator"
        known = (
            several
            or several_labels
            or kind == ("binary" if self.n_outputs_ == 1 else "multiclass")
        )
        if kind != labels.kind or not known or self._sparse_labels > several_labels:
            raise ValueError(
                f"_label_kind and _sparse_labels are {kind!r:.50} and {self._sparse_labels}, "
                f"which does not fit {self.n_outputs_} outputs through {self.out_activation_!r}."
            )

    @property
    def _label_binarizer(self) -> Any:
        """For third parties that read scikit-learn's private attribute (skl2onnx)."""
        return self._labels.binarizer()

    def _encoded(self, data: TrainingData, classes: Any, *, incremental: bool) -> TrainingData:
        y, labels = data.target, self._labels if "classes_" in vars(self) else None
        if incremental:
            labels = self._labels_of_partial_fit(labels, y, classes)
        if labels is None or not (incremental or self.warm_start):
            labels, target = Labels.learn(y)
        else:
            if self.warm_start:
                labels.require_same_classes(Labels.learn(y)[0])
            target = labels.encode(y)
        smoothing = self.loss.label_smoothing if isinstance(self.loss, LogLoss) else 0.0
        data = replace(data, target=target, labels=labels, smoothing=smoothing)
        if self.class_weight is None:
            return data
        if incremental and isinstance(self.class_weight, str):
            raise ValueError(
                f"class_weight={self.class_weight!r} is not supported for partial_fit, which sees "
                "one part of the samples at a time. Use sklearn.utils.class_weight."
                "compute_class_weight('balanced', classes=classes, y=y) on a sample of all that is "
                "to come, and give its weights by label, a dict."
            )
        return validate.class_weighted(data, self.class_weight)

    def _labels_of_partial_fit(
        self, labels: Labels | Heads | None, y: Any, classes: Any
    ) -> Labels | Heads:
        """The labels there are, or on the first call those that it was given."""
        if classes is None:
            if labels is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            return labels
        if y.ndim == 2 and all(np.ndim(column) == 1 for column in classes):
            found: Any = (Labels.learn(np.asarray(column))[0].classes for column in classes)
            heads = Heads(tuple(found))
            if len(classes) != y.shape[1]:
                raise ValueError(
                    f"classes has the labels of {len(classes)} columns, and y has {y.shape[1]}."
                )
            if labels is not None and not isinstance(labels, Heads):
                raise ValueError(f"classes={classes!r} are of another type of target than before.")
            if labels is not None:
                labels.require_same_classes(heads)
            return heads
        with validate.blamed_on("classes"):
            passed, _ = Labels.learn(column_or_1d(classes))
        if labels is None and y.ndim == 1:
            return passed
        if labels is None:
            labels, _ = Labels.learn(y)
        if not np.array_equal(labels.classes, passed.classes):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, or as "
                f"the columns of y, was: {labels.classes!r}"
            )
        return labels

    def _loss_of(self, data: TrainingData) -> spec.Loss:
        assert data.labels is not None
        if isinstance(data.labels, Heads):
            if not (isinstance(self.loss, LogLoss) or self.loss == "log_loss"):
                raise ValueError(
                    f"loss={self.loss!r} is for one target, and y has {len(data.labels.widths)} "
                    "columns of classes. Use loss='log_loss' or LogLoss, or a classifier for each "
                    "column (sklearn.multioutput.MultiOutputClassifier)."
                )
            smoothing = chosen("loss", self.loss, CLASSIFIER_LOSSES).label_smoothing
            return spec.loss_with("joint_log_loss", smoothing, *data.labels.widths)
        multiclass = data.labels.kind == "multiclass"
        if callable(self.loss) or isinstance(self.loss, tuple):
            function = validate.function("loss", self.loss)
            if multiclass:
                raise ValueError(
                    f"loss={self.loss!r} is a function of one output, and y has "
                    f"{len(data.labels.classes)} classes, which share theirs. Use it for two "
                    "classes or an indicator matrix, or in sklearn.multiclass.OneVsRestClassifier."
                )
            return spec.custom_loss(function, "logistic")
        if self.loss in HINGES:
            return spec.LOSSES[self.loss if multiclass else f"binary_{self.loss}"]
        return chosen("loss", self.loss, CLASSIFIER_LOSSES).record(multiclass=multiclass)

    def _score_rows(self, data: TrainingData, output: Array) -> float:
        assert data.labels is not None
        threshold = 0.0 if self.loss in HINGES else 0.5
        codes, n_rows = data.labels.choose(output, threshold), len(output)
        hits = (codes.reshape(n_rows, -1) == data.target.reshape(n_rows, -1)).all(axis=1)
        return float(np.average(hits, weights=data.sample_weight))

    @available_if(MultilayerPerceptron._check_solver)
    @exclusive
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Train for one epoch more, starting where the last call ended.

        Moments and clock of the solver go on; its other parameters (rate, schedule, clipping,
        averaging) are what they are set to now. Another solver needs a new `fit`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input, as for `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Labels, all of them among the classes, or an indicator matrix; or several columns of
            labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, none of them negative. None stands for ones.
        classes : array-like of shape (n_classes,) or list of such, default=None
            All labels that y may ever hold, of each column of several. Needed in the first call,
            if there was no `fit` before; later it may be left out.

        Returns
        -------
        self : object
            The fitted estimator. If anything is raised it is left as it was before.

        Raises
        ------
        ValueError
            As `fit`; for labels that are not among the classes; with `early_stopping`.
        """
        return self._fit(watching.Rows(X, y, sample_weight), classes, incremental=True)

    def predict(self, X: Any) -> Any:
        """Predict labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input.

        Returns
        -------
        ndarray of shape (n_samples,), (n_samples, n_classes) or (n_samples, n_targets)
            The most probable class of each sample (under hinges that of the largest output), of
            the dtype of `classes_`, in each column of several; or an indicator matrix of the
            classes that are more probable than not (whose outputs are positive), sparse if y was.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X cannot be used.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from hotloop import MLPClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> clf = MLPClassifier(solver="lbfgs", random_state=0, max_iter=1000).fit(X, y)
        >>> clf.predict(X[:3])
        array([0, 0, 0])
        """
        output = self._predicted(X)
        threshold = 0.0 if self.out_activation_ == "identity" else 0.5
        return device_arrays.likewise(X, self._labels.decode(output, threshold))

    @_OfProbabilities
    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32 or float64, or list of such
            In the order of `classes_`; of each label by itself for an indicator matrix. Two
            columns if there is one class only, which has the first. For several columns of
            classes a list with an array for each.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X cannot be used.
        AttributeError
            Under 'hinge' and 'squared_hinge'.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from hotloop import MLPClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> clf = MLPClassifier(solver="lbfgs", random_state=0, max_iter=1000).fit(X, y)
        >>> clf.predict_proba(X[:1]).round(2)
        array([[1., 0., 0.]])
        """
        return self._given_back(X, _probabilities(self._predicted(X)))

    @_OfProbabilities
    def predict_log_proba(self, X: Any) -> Array:
        """Logarithms of the probabilities of the classes.

        They are ``log(predict_proba(X))`` bit for bit, but where a probability is rounded
        to 0: there it is its logarithm in truth, not minus infinity.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32 or float64, or list of such
            In the order of `classes_`; a list as that of `predict_proba`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X cannot be used.
        """
        checked = self._checked(X)
        with np.errstate(divide="ignore"):
            logarithms = np.log(_probabilities(self._output(checked)))
        lost = np.isneginf(logarithms)
        if lost.any():
            raw = self._output(checked, raw=True)
            if self.out_activation_ == "softmaxes":
                exact = np.hstack(
                    [log_softmax(z, axis=1) for z in self._labels_of_heads.split(raw)]
                )
            elif self.out_activation_ == "softmax":
                exact = log_softmax(raw, axis=1)
            else:
                exact = log_expit(np.hstack([-raw, raw]) if raw.shape[1] == 1 else raw)
            logarithms[lost] = exact[lost]
        return self._given_back(X, logarithms)

    def decision_function(self, X: Any) -> Array:
        """Output of the network before its output activation.

        For two classes the log-odds of the second, ``log(p / (1 - p))``: `predict` chooses
        it where they are positive. For more, numbers that differ from the logarithms of the
        probabilities by one constant a sample: `predict` chooses the largest. For an
        indicator matrix the log-odds of each label. (`predict` goes by the probabilities:
        where these tie by rounding it chooses the first class.) Under 'hinge' and
        'squared_hinge' the numbers mean no more than what `predict` chooses by them.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes), float32 or float64, or list of such
            Flat for two classes; a list, with an array for each, of several columns of classes.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X cannot be used.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from hotloop import MLPClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> clf = MLPClassifier(solver="lbfgs", random_state=0, max_iter=1000).fit(X, y)
        >>> clf.decision_function(X[:2]).argmax(axis=1)
        array([0, 0])
        """
        raw = self._predicted(X, raw=True)
        return self._given_back(X, raw.ravel() if raw.shape[1] == 1 else raw)

    def _given_back(self, X: Any, output: Array) -> Any:
        """Numbers of classes as arrays like X, in a list where y has several columns of them."""
        if self.out_activation_ != "softmaxes":
            return device_arrays.likewise(X, output)
        return [device_arrays.likewise(X, part) for part in self._labels_of_heads.split(output)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Share of the samples whose labels are all predicted.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            The labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        float
            `sklearn.metrics.accuracy_score`, which knows no "multiclass-multioutput" targets; for
            these the same of whole rows, as `sklearn.multioutput.MultiOutputClassifier` has it.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X or y cannot be used.
        """
        if vars(self).get("out_activation_") != "softmaxes":
            return super().score(X, y, sample_weight)
        y, predicted = check_array(y, dtype=None), self._labels.decode(self._predicted(X))
        if y.shape != predicted.shape:
            raise ValueError(f"y must have shape {predicted.shape}, got {y.shape}.")
        return float(np.average((y == predicted).all(axis=1), weights=sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        # Its check compares the order of probabilities, which L-BFGS drives to 1, with outputs.
        tags.target_tags.multi_output = self.solver != "lbfgs"
        return tags


def _probabilities(output: Array) -> Array:
    """A column for each class: two for the one output that tells two classes apart."""
    return np.concatenate((1 - output, output), axis=1) if output.shape[1] == 1 else output


class MLPRegressor(RegressorMixin, MultilayerPerceptron):
    """Multi-layer perceptron regressor.

    Takes the place of :class:`sklearn.neural_network.MLPRegressor`: same parameters, same
    random stream, same result up to rounding, in a fraction of the time.

    Parameters
    ----------
    loss : {'squared_error', 'absolute_error', 'huber', 'log_cosh', 'quantile', 'poisson', \
            'gamma', 'tweedie'}, Huber, Quantile, Tweedie, callable or (callable, callable), \
            default='squared_error'
        What is minimised, the mean over rows of the sum over outputs (the mean over outputs for
        'squared_error', as in scikit-learn, though its gradient is that of the sum). With linear
        outputs and ``d = prediction - y``: 'squared_error' ``d ** 2 / 2``, 'absolute_error'
        ``abs(d)``, 'log_cosh' ``log(cosh(d))``, 'huber' a square that becomes a line
        (:class:`Huber`), 'quantile' the pinball loss, of the median or of one or several others
        that do not cross (:class:`Quantile`). With outputs ``exp(z)``, half the deviance of a
        distribution: 'poisson', for targets that are not negative, 'gamma'
        ``y / p - log(y / p) - 1``, for targets above 0, 'tweedie' for what lies between and beyond
        (:class:`Tweedie`).

        Or a function ``f(y, z)`` of a target and a linear output, or a pair of it and its
        derivative by ``z``, summed over outputs. It is compiled and tried as an `activation` is.
        The derivative of a loss at a kink is taken for 0. 'lbfgs' supposes smooth losses: with
        'absolute_error' and 'quantile' it may stop early, at a kink.
    hidden_layer_sizes : int or array-like of int of shape (n_layers - 2,), default=(100,)
        Units of each hidden layer, from input to output. Empty for none, which makes a
        linear model.
    activation : str, callable, (callable, callable) or list of such, default='relu'
        Activation of the hidden layers, or a list with one for each. By name:

        - 'identity', 'relu', 'logistic', 'tanh': ``z``, ``max(0, z)``,
          ``s(z) = 1 / (1 + exp(-z))``, ``tanh(z)``, as scikit-learn has them.
        - 'leaky_relu', 'elu', 'selu': ``z`` above zero, and below ``0.01 * z``, ``exp(z) - 1``; the
          last is 1.0507 times ``z`` or ``1.6733 * (exp(z) - 1)`` [4]_ [5]_ [6]_.
        - 'gelu', 'gelu_tanh': ``z * Phi(z)`` with the normal distribution Phi, and its
          approximation ``z / 2 * (1 + tanh(sqrt(2 / pi) * (z + 0.044715 * z ** 3)))`` [7]_.
        - 'silu' (also known as swish), 'mish', 'softplus': ``z * s(z)``, ``z * tanh(softplus(z))``,
          ``log(1 + exp(z))`` [7]_ [8]_ [9]_.
        - 'softsign', 'hard_sigmoid', 'hard_swish': ``z / (1 + abs(z))``,
          ``max(0, min(6, z + 3)) / 6``, and ``z`` times that [10]_ [11]_.

        Or a function of one number, or a pair of it and its derivative. numba
        compiles it (``pip install 'hotloop[numba]'``) in a second or two, and
        :mod:`hotloop.elementwise` has functions to make it of that are as fast as the kernels.
        A derivative that is not given is computed, with a warning: by complex steps, or by
        differences where the function compares, branches or calls what has no complex form.
        One that is given is compared with differences.
    solver : str or Solver, default='adam'
        How the weights are found: in mini-batches by 'adam' or stochastic gradient descent
        ('sgd'), or by 'lbfgs', a quasi-Newton method over all rows at once, which often is
        the best choice for small data sets. Beyond scikit-learn's, all in mini-batches: 'adamw',
        'nadam', 'amsgrad', 'rmsprop', 'adagrad', 'lion', 'muon' (orthogonal steps between hidden
        layers), or an object with its own parameters, decoupled weight decay among them:
        :class:`~hotloop.SGD`, :class:`~hotloop.Adam`, :class:`~hotloop.AdamW`,
        :class:`~hotloop.NAdam`, :class:`~hotloop.RMSprop`, :class:`~hotloop.Adagrad`,
        :class:`~hotloop.Lion`, :class:`~hotloop.Muon`. Beside an object, `momentum`,
        `nesterovs_momentum`, `beta_1`, `beta_2` and `epsilon` are left alone; a name takes those
        that its object has with the same default. What is said below of 'sgd' and 'adam' goes for
        all of these, but for `momentum` and so on.
    alpha : float, default=0.0001
        Strength of the L2 penalty on the weights (not the biases),
        ``alpha / 2 * sum(w ** 2)``, divided by the sum of sample weights in the batch; see
        `l1_ratio`. It is part of the loss, whatever the solver.
    batch_size : int or 'auto', default='auto'
        Rows in a mini-batch; 'auto' is ``min(200, n_samples)``. Not used by 'lbfgs'.
    learning_rate : str or Schedule, default='constant'
        How the rate changes. scikit-learn's 'constant' (it stays); 'invscaling' (it is
        ``learning_rate_init / (t_ + 1) ** power_t`` from each epoch's end on); 'adaptive' (it is
        divided by 5 instead of stopping when `n_iter_no_change` says so, until it is below
        1e-6): 'adam' ignores the last two names, as it does there. And for all stochastic
        solvers 'step', 'exponential', 'cosine', 'cosine_restarts', 'one_cycle', 'polynomial',
        'warmup', or an object with its own parameters: :class:`~hotloop.InvScaling`,
        :class:`~hotloop.Adaptive`, :class:`~hotloop.StepDecay`, :class:`~hotloop.Exponential`,
        :class:`~hotloop.Cosine`, :class:`~hotloop.CosineRestarts`, :class:`~hotloop.OneCycle`,
        :class:`~hotloop.Polynomial`, and :class:`~hotloop.Warmup` before any of them. They end
        with the last of `max_iter` epochs; each `partial_fit` is one epoch.
    learning_rate_init : float, default=0.001
        Step size at the start, of 'sgd' and 'adam'.
    power_t : float, default=0.5
        The exponent of 'invscaling'.
    max_iter : int, default=200
        Epochs at most; for 'lbfgs' iterations.
    shuffle : bool, default=True
        Whether 'sgd' and 'adam' go through the rows in a new order in every epoch.
    random_state : int, RandomState instance or None, default=None
        Decides on the initial weights, the rows of early stopping and the orders of
        epochs. An int gives the same result every time, and the one that scikit-learn's
        class gives for it.
    tol : float, default=1e-4
        Loss (or what `early_stopping` watches) has to improve by this much to count as improved;
        for 'lbfgs' the largest gradient entry at which it stops.
    verbose : bool, default=False
        Whether to print every epoch's loss, and the score of validation rows.
    warm_start : bool, default=False
        Whether `fit` starts from the weights there are instead of random ones.
    momentum : float, default=0.9
        Of 'sgd', between 0 and 1.
    nesterovs_momentum : bool, default=True
        Whether that momentum is Nesterov's.
    early_stopping : bool, default=False
        Whether stochastic solvers set rows aside, stop by the score on those (`scoring`), and keep
        the weights of the best epoch. If X_val and y_val are passed to `fit` they take the place
        of rows set aside, also for 'lbfgs'.
    validation_fraction : float, default=0.1
        Share of the rows that early stopping sets aside, in [0, 1).
    beta_1 : float, default=0.9
        Decay rate of the first moment in 'adam', in [0, 1).
    beta_2 : float, default=0.999
        Decay rate of the second moment in 'adam', in [0, 1).
    epsilon : float, default=1e-8
        Added to the root of the second moment in 'adam'.
    n_iter_no_change : int or inf, default=10
        Epochs in a row that may fail to improve before 'sgd' and 'adam' stop.
    max_fun : int, default=15000
        Evaluations of the loss at most, by 'lbfgs'.
    precision : {'auto', 'float32', 'float64', 'bfloat16', 'bfloat16_emulated'}, default='auto'
        What is computed with: 'auto' follows X (float32 for float32, else float64), the
        others force. 'lbfgs' computes in float64 and rounds the result.

        'bfloat16' is for 'adam' and 'sgd' on processors with AVX512_BF16 and an error
        elsewhere; `hotloop.show_config()` tells. `fit` and `partial_fit` round weights,
        activations and gradients of activations to bfloat16 where they multiply matrices, and
        sum in float32, in which everything else is: `coefs_`, the moments of the solver, the
        loss, predictions and validation scores, and a first layer on sparse X.
        'bfloat16_emulated' does the same on any processor by float32 arithmetic, with the same
        products to the bit, and is slower than 'float32'.
    n_jobs : int or None, default=None
        Threads that share the work of `fit` and of predictions; the result has the same bits
        for any number. None and -1 stand for all processors that the process may use, or
        fewer if OMP_NUM_THREADS says so (joblib sets it in its workers), -2 for all but one.
        Never more than there are, nor than 256; the environment variable HOTLOOP_NUM_THREADS
        stands in for what there is. One in a daemonic process, as those of a
        ``multiprocessing.Pool`` are. Fits side by side share the processors.
    sparse_updates : {'exact', 'lazy'}, default='exact'
        What 'sgd' and 'adam' do, on sparse X, with the weights of a feature in batches that have
        nothing of it. 'exact': what they would do on the same X if it were dense, though later:
        when the feature comes up again, or the weights are read. 'lazy': nothing, so that
        momentum, moments and `alpha` work on a feature only in batches that have it; it is
        sooner, and another result.
    backend : {'auto', 'compiled', 'numba'}, default='auto'
        Who computes: the compiled kernels, or others that need numba
        (``pip install 'hotloop[numba]'``), take half a minute for each precision to compile when
        they are first used on a machine, have one thread whatever `n_jobs` says, and are 5 to 15
        times slower on it. Results are the same up to rounding. 'numba' has no bfloat16, and
        answers an interrupt after the step. 'auto' is 'compiled', but 'numba' in an install
        without compiled kernels, or what the environment variable HOTLOOP_BACKEND names.
    device : {'cpu', 'cuda', 'auto'}, default='cpu'
        Where to compute, in `fit` and in predictions. 'cuda' is an Nvidia GPU, by kernels that
        need numba (``pip install 'hotloop[cuda]'``); it computes in float32 and float64, has
        `backend` 'auto' only, and the result is that of the CPU up to rounding. Where there is no
        GPU it is an error: set 'cpu' to predict there with a model that was trained on one. See
        :func:`hotloop.fit_many` for many small models at once. 'auto' takes a GPU, if there is
        one, for steps (or predictions) of at least 5 MFLOP, which is 6 (2) times rows times
        weights: below that the CPU is done sooner.

        With 'cuda', arrays of CuPy, torch, numba and others that lie on the GPU are taken, by
        ``__cuda_array_interface__`` or DLPack. X is not copied, so it must be C-contiguous and of
        float32 or float64 (where the other is computed with, it is converted there); y and sample
        weights are copied to the host. With 'cpu' and 'auto' they are an error. Predictions and
        fitted attributes are NumPy arrays; under
        ``sklearn.set_config(array_api_dispatch=True)`` predictions are copied to X's device, as
        arrays of X's library (of numba, if scikit-learn does not know that library), except for
        labels that are strings or sparse.
    dropout : float or array-like of float of shape (n_layers - 2,), default=0.0
        The rate in [0, 1) at which each training step drops outputs of hidden layers: each is 0
        with that probability, else ``1 / (1 - dropout)`` times what it would be, so that its mean
        stays (Srivastava et al. 2014, "Dropout", JMLR 15, sections 4 and 10). One rate for all
        hidden layers, or one for each. Predictions drop nothing, and so do scores of
        `early_stopping`. What is dropped is up to `random_state` alone: it is the same on every
        backend and any number of threads. Not for 'lbfgs', like the next three.
    input_dropout : float, default=0.0
        The same rate for the inputs. Needs a dense X.
    input_noise : float, default=0.0
        Standard deviation of the normal numbers that each training step adds to all inputs,
        before it drops any. Needs a dense X, and columns that are scaled alike.
    mixup : float, default=0.0
        Mixes rows in pairs (Zhang et al. 2018, "mixup", ICLR, section 2): each step trains on
        ``m * x_i + (1 - m) * x_j`` by the loss
        ``m * w_i * loss(y_i) + (1 - m) * w_j * loss(y_j)``, w being sample weights. m is drawn
        from Beta(mixup, mixup) for each step; i are the rows of the batch, in random order, j is
        half a batch further on. 0 mixes nothing; 0.1 to 0.4 are usual. Noise and dropout come
        after it. Needs a dense X.
    normalization : {'batch', 'layer'}, BatchNorm, LayerNorm or None, default=None
        What the sums z of each hidden layer become before the activation:
        ``norm_scales_ * (z - mean) / sqrt(variance + epsilon) + intercepts_``. 'batch' takes
        mean and variance of each unit over the rows of a batch, whatever their `sample_weight`;
        predictions and validation scores take `norm_means_` and `norm_variances_`, averages over
        the batches. A batch of one row becomes `intercepts_`, and says nothing of a variance: a
        last batch of so few is better avoided by `batch_size`. Not for 'lbfgs'. 'layer' takes
        them of each row over the units. Not for bfloat16. :class:`BatchNorm` and
        :class:`LayerNorm` have the parameters, and say where it is from.
    l1_ratio : float, default=0.0
        The part of the penalty that is L1, between 0 and 1, as in scikit-learn's ElasticNet:
        ``alpha * (l1_ratio * sum(|w|) + (1 - l1_ratio) / 2 * sum(w ** 2))``. Its slope is
        ``sign(w)``, 0 at 0; weights come close to zero rather than to it. Not for 'lbfgs'.
    max_norm : float or None, default=None
        Largest Euclidean norm of the weights that come into a unit, of every layer, the output
        layer's too: columns of `coefs_` that are longer after a step are shrunk to it [15]_. Not
        for 'lbfgs', nor for sparse X.
    clip_norm : float or None, default=None
        Largest Euclidean norm of the gradient of all weights and biases together, the penalty
        included: a longer one is multiplied by ``clip_norm / (norm + 1e-6)``, as PyTorch's
        ``clip_grad_norm_`` does [16]_. Not for 'lbfgs', nor for sparse X.
    clip_value : float or None, default=None
        Largest absolute value of an element of the gradient, the penalty included: larger ones are
        set to it, after `clip_norm`. Not for 'lbfgs'.
    init : {'auto', 'glorot_uniform', 'glorot_normal', 'he_uniform', 'he_normal', 'lecun_uniform', \
            'lecun_normal', 'orthogonal'} or pair of lists of array-like, default='auto'
        How weights are drawn, with ``I`` inputs and ``O`` outputs of a layer: with variance
        ``2 / (I + O)`` [1]_, ``2 / I`` [12]_ or ``1 / I`` [13]_, uniform or normal; or a matrix
        with orthogonal columns (rows, if these are fewer) of length 1, and of ``sqrt(2)`` under
        'relu' and its like [14]_. Biases begin at zero. 'auto' goes by each layer's activation,
        the output layer by that of the last hidden one. For scikit-learn's four, and for
        functions, it is scikit-learn's very draw ('glorot_uniform', of the biases, too); else
        'he_normal', but 'lecun_normal' for 'selu' and 'glorot_uniform' for 'softsign' and
        'hard_sigmoid'.
        A pair is the weights and the biases of each layer to start from, as `coefs_` and
        `intercepts_` of a fitted estimator; nothing is drawn then. With `normalization` what it
        has learnt may follow: ``(coefs_, intercepts_, norm_scales_)``, for 'batch' with
        `norm_means_` and `norm_variances_` after that; else it begins with scales of 1, means of 0
        and variances of 1.
    averaging : {'ema', 'swa'}, EMA, SWA or None, default=None
        Hands out an average of the weights instead of the last ones: 'ema' or
        :class:`~hotloop.EMA`, a moving average over steps, which goes on in `partial_fit`; 'swa' or
        :class:`~hotloop.SWA`, the mean over the last epochs. `loss_curve_` is of the weights that
        training goes on with. Not for 'lbfgs'.
    frozen_layers : array-like of int or None, default=None
        Layers whose weights and biases stay as they are, from 0, the first after the input, to
        -1, the output layer. For `init`, `warm_start` or `partial_fit` to start from weights
        that were learnt elsewhere.
    scoring : str, callable or None, default=None
        What is watched after every epoch on validation rows, those that `early_stopping` sets
        aside or X_val and y_val of `fit`. None: R2, as `score` has it. 'loss': the negative of
        the mean loss that is trained by, without the penalty. Else the name of a scorer of
        scikit-learn, or a function of (estimator, X, y), which is called with a fitted estimator,
        with rows as they were given, and with ``sample_weight`` if there are weights and it takes
        any; these take one more prediction an epoch. 'lbfgs' looks at X_val, too, after each
        iteration.
    max_time_s : float or None, default=None
        Seconds that `fit` may take, from its start: it ends after the epoch, or iteration of
        'lbfgs', in which they are over, with a ConvergenceWarning. None is no limit. Not looked at
        by `partial_fit`.

    Attributes
    ----------
    loss_ : float
        Loss of the last epoch (mean over rows, penalty included), or at L-BFGS' end.
    best_loss_ : float or None
        The smallest loss of an epoch; None with early stopping. Not set by 'lbfgs', like
        `loss_curve_`.
    loss_curve_ : list of float
        Loss of each epoch, over all calls that went on from each other.
    validation_scores_ : list of float or None
        R2 of each epoch (D2 under 'quantile', as `score`), or what `scoring` says, on the
        validation rows; None without any. For scoring='loss' the negative of the loss: larger is
        better. Set by 'lbfgs' for X_val, as are the next two.
    best_validation_score_ : float or None
        The largest of them.
    validation_loss_curve_ : list of float or None
        Mean loss of the validation rows after each epoch, without the penalty.
    t_ : int
        Samples that have gone by in training.
    coefs_ : list of ndarray of shape (n_in, n_out)
        Weights of each layer, of the dtype that was computed with. All arrays here and in
        `intercepts_` are row-major views of one vector; edit or replace them as you like.
    intercepts_ : list of ndarray of shape (n_out,)
        Biases of each layer.
    norm_scales_ : list of ndarray of shape (n_out,)
        Factors of each hidden layer; set with a `normalization`. They and the next two are views
        of the same vector, to edit as you like.
    norm_means_ : list of ndarray of shape (n_out,)
        Means that predictions normalise each hidden layer by; set with batch normalization.
    norm_variances_ : list of ndarray of shape (n_out,)
        The variances, those without bias; set with batch normalization.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features; set if X had names that are strings.
    n_iter_ : int
        Epochs, or iterations of L-BFGS, of the last call.
    device_ : {'cpu', 'cuda'}
        Where the last call computed.
    n_layers_ : int
        Number of layers, the input counted as one.
    n_outputs_ : int
        Number of outputs.
    out_activation_ : str
        Activation of the output layer: 'identity' or 'exp', or 'ordered' for several quantiles.
    quantiles_ : ndarray of shape (n_quantiles,)
        Levels of the outputs, under 'quantile' only.

    See Also
    --------
    MLPClassifier : The same for class labels.

    Notes
    -----
    With scikit-learn 1.9 or later, callbacks given by ``set_callbacks`` are told of every
    epoch, by ``partial_fit`` of its one, and may stop the training.

    References
    ----------
    .. [1] Glorot, X. and Bengio, Y. (2010), "Understanding the difficulty of training deep
       feedforward neural networks", AISTATS. Initial weights: equation 16.
    .. [2] Kingma, D. and Ba, J. (2014), "Adam: A method for stochastic optimization",
       arXiv:1412.6980. Algorithm 1, as rewritten at the end of section 2.
    .. [3] Sutskever, I., Martens, J., Dahl, G. and Hinton, G. (2013), "On the importance of
       initialization and momentum in deep learning", ICML. Section 2.
    .. [4] Maas, A., Hannun, A. and Ng, A. (2013), "Rectifier nonlinearities improve neural network
       acoustic models", ICML.
    .. [5] Clevert, D.-A., Unterthiner, T. and Hochreiter, S. (2016), "Fast and accurate deep
       network learning by exponential linear units (ELUs)", ICLR.
    .. [6] Klambauer, G., Unterthiner, T., Mayr, A. and Hochreiter, S. (2017), "Self-normalizing
       neural networks", NeurIPS.
    .. [7] Hendrycks, D. and Gimpel, K. (2016), "Gaussian error linear units (GELUs)",
       arXiv:1606.08415.
    .. [8] Misra, D. (2020), "Mish: A self regularized non-monotonic activation function", BMVC.
    .. [9] Dugas, C. et al. (2001), "Incorporating second-order functional knowledge for better
       option pricing", NeurIPS.
    .. [10] Bergstra, J. et al. (2009), "Quadratic polynomials learn better image features",
       Technical Report 1337, Universite de Montreal.
    .. [11] Howard, A. et al. (2019), "Searching for MobileNetV3", ICCV. Section 5.2.
    .. [12] He, K., Zhang, X., Ren, S. and Sun, J. (2015), "Delving deep into rectifiers", ICCV.
       Equation 10.
    .. [13] LeCun, Y., Bottou, L., Orr, G. and Mueller, K.-R. (1998), "Efficient BackProp", in
       Neural Networks: Tricks of the Trade. Equation 16.
    .. [14] Saxe, A., McClelland, J. and Ganguli, S. (2014), "Exact solutions to the nonlinear
       dynamics of learning in deep linear neural networks", ICLR. Section 3.
    .. [15] Srivastava, N. et al. (2014), "Dropout: A simple way to prevent neural networks from
        overfitting", JMLR 15. Section 5.1.
    .. [16] Pascanu, R., Mikolov, T. and Bengio, Y. (2013), "On the difficulty of training recurrent
        neural networks", ICML. Algorithm 1.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from sklearn.model_selection import train_test_split
    >>> from hotloop import MLPRegressor
    >>> X, y = make_regression(n_samples=200, n_features=20, random_state=1)
    >>> X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=1)
    >>> regr = MLPRegressor(random_state=1, max_iter=2000, tol=0.1).fit(X_train, y_train)
    >>> regr.predict(X_test[:2]).round()
    array([  29., -291.])
    >>> round(regr.score(X_test, y_test), 2)
    0.98
    """

    quantiles_: Array

    _parameter_constraints: ClassVar[dict] = {
        **MultilayerPerceptron._parameter_constraints,
        "loss": [
            StrOptions({*REGRESSOR_LOSSES}),
            *_LOSS_OBJECTS.values(),
            *(callable, tuple),
        ],
    }

    def __init__(
        self,
        loss="squared_error",
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        precision="auto",
        n_jobs=None,
        sparse_updates="exact",
        backend="auto",
        device="cpu",
        dropout=0.0,
        input_dropout=0.0,
        input_noise=0.0,
        mixup=0.0,
        normalization=None,
        l1_ratio=0.0,
        max_norm=None,
        clip_norm=None,
        clip_value=None,
        init="auto",
        averaging=None,
        frozen_layers=None,
        scoring=None,
        max_time_s=None,
    ):
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.precision = precision
        self.n_jobs = n_jobs
        self.sparse_updates = sparse_updates
        self.backend = backend
        self.device = device
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.input_noise = input_noise
        self.mixup = mixup
        self.normalization = normalization
        self.l1_ratio = l1_ratio
        self.max_norm = max_norm
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.init = init
        self.averaging = averaging
        self.frozen_layers = frozen_layers
        self.scoring = scoring
        self.max_time_s = max_time_s

    def _encoded(self, data: TrainingData, classes: Any, *, incremental: bool) -> TrainingData:
        target = validate.regression_target(data.target, self._loss_of())
        return replace(data, target=target)

    def _loss_of(self, data: TrainingData | None = None) -> spec.Loss:
        if callable(self.loss) or isinstance(self.loss, tuple):
            return spec.custom_loss(validate.function("loss", self.loss), "identity")
        named = REGRESSOR_LOSSES.get(self.loss) if isinstance(self.loss, str) else None
        if isinstance(named, spec.Loss):
            return named
        return chosen("loss", self.loss, _LOSS_OBJECTS).record()

    def _attributes(self, job: Any, outcome: Any) -> dict[str, Any]:
        attributes = super()._attributes(job, outcome)
        if job.network.loss.name in ("quantile", "ordered_quantiles"):
            attributes["quantiles_"] = np.array(job.network.loss.parameters)
        return attributes

    @property
    def _own_scoring(self) -> str | None:  # type: ignore[override]
        quantiles = self.loss == "quantile" or isinstance(self.loss, Quantile)
        return None if quantiles else "r2"

    def _score_rows(self, data: TrainingData, output: Array) -> float:
        if not np.isfinite(output).all():
            return float("nan")
        loss = self._loss_of()
        if loss.name in ("quantile", "ordered_quantiles"):
            return _d2_pinball(data.target, output, loss.parameters, data.sample_weight)
        return _r2(data.target, output, data.sample_weight)

    @available_if(MultilayerPerceptron._check_solver)
    @exclusive
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch more, starting where the last call ended.

        Moments and clock of the solver go on; its other parameters (rate, schedule, clipping,
        averaging) are what they are set to now. Another solver needs a new `fit`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input, as for `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, none of them negative. None stands for ones.

        Returns
        -------
        self : object
            The fitted estimator. If anything is raised it is left as it was before.

        Raises
        ------
        ValueError
            As `fit`; with `early_stopping`.
        """
        return self._fit(watching.Rows(X, y, sample_weight), incremental=True)

    def predict(self, X: Any) -> Array:
        """Predict numbers.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs), float32 or float64
            Flat for one output; a column for each of several quantiles.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X cannot be used.

        Examples
        --------
        >>> import numpy as np
        >>> from hotloop import MLPRegressor
        >>> X = np.linspace(-1, 1, 50).reshape(-1, 1)
        >>> regr = MLPRegressor(solver="lbfgs", random_state=0, max_iter=1000).fit(X, 3 * X.ravel())
        >>> regr.predict([[0.5]]).round(1)
        array([1.5])
        """
        output = self._predicted(X)
        return device_arrays.likewise(X, output.ravel() if output.shape[1] == 1 else output)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R2 of predictions, or under 'quantile' D2.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        float
            As `sklearn.metrics.r2_score` has it; or, if the network was fitted to quantiles, as
            `sklearn.metrics.d2_pinball_score`, the mean over them.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X or y cannot be used.
        """
        levels = vars(self).get("quantiles_")
        if levels is None:
            return super().score(X, y, sample_weight)
        prediction = self._predicted(X)
        target = check_array(y, ensure_2d=False, dtype=np.float64)
        check_consistent_length(prediction, target)
        target = target.reshape(len(prediction), -1)
        n_targets = 1 if self.out_activation_ == "ordered" else prediction.shape[1]
        if target.shape[1] != n_targets:
            raise ValueError(f"y has {target.shape[1]} targets, but {n_targets} were fitted.")
        if self.out_activation_ == "ordered":
            target = np.repeat(target, len(levels), axis=1)
        return _d2_pinball(target, prediction, levels, sample_weight)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        try:
            loss = self._loss_of()
        except ValueError:  # which fit will raise
            return tags
        # (scikit-learn's check of several outputs fits negative targets whatever the tags say)
        positive = loss.least >= 0
        tags.target_tags.multi_output = not (positive or loss.name == "ordered_quantiles")
        tags.target_tags.positive_only = positive
        return tags


def _d2_pinball(
    y: Array, prediction: Array, levels: Sequence[float], sample_weight: Array | None
) -> float:
    """Share of the pinball loss that is explained, as `d2_pinball_score` has it.

    Parameters
    ----------
    y, prediction : ndarray of shape (n, O)
        What is, and what was predicted; finite.
    levels : sequence of float
        One for all outputs, or one for each.
    sample_weight : ndarray of shape (n,) or None
        Weights, not all zero.

    Returns
    -------
    float
        The mean over outputs.
    """
    each = np.broadcast_to(levels, y.shape[1])
    scores = [
        d2_pinball_score(y[:, o], prediction[:, o], sample_weight=sample_weight, alpha=level)
        for o, level in enumerate(each)
    ]
    return float(np.mean(scores))


def _r2(y: Array, prediction: Array, sample_weight: Array | None) -> float:
    """Coefficient of determination, averaged over outputs, as `r2_score` has it.

    Parameters
    ----------
    y, prediction : ndarray of shape (n, O)
        What is, and what was predicted; finite.
    sample_weight : ndarray of shape (n,) or None
        Weights, not all zero.

    Returns
    -------
    float
        For an output that does not vary, 1 if all is right and else 0.
    """
    weight = 1.0 if sample_weight is None else sample_weight[:, np.newaxis]
    with np.errstate(all="ignore"):
        mean = np.average(y, axis=0, weights=sample_weight)
        error = np.sum(weight * (y - prediction) ** 2, axis=0)
        spread = np.sum(weight * (y - mean) ** 2, axis=0)
        scores = np.where(spread != 0, 1.0 - error / spread, 0.0)
    return float(np.mean(np.where(error != 0, scores, 1.0)))
