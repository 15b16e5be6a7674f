"""Who runs a plan: the runner that every backend offers, the registry, reasons for absence."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import scipy
import scipy.sparse
import sklearn

from hotloop import kernels
from hotloop.kernels import CPU_BACKENDS, DTYPES, backend_of, philox
from hotloop.plan import GROUPS, SCALARS, Plan
from hotloop.spec import Function, Network
from hotloop.threads import Threads, check_n_jobs, thread_count
from hotloop.vectors import (
    State,
    layer_shapes,
    record_views,
    slot_fields,
    weight_views,
    with_vectors,
)

if kernels.COMPILED:
    from hotloop.kernels.engine import Engine, FewRows
    from hotloop.kernels.engine import shuffle as shuffle_orders
else:
    Engine = FewRows = shuffle_orders = None

#: Flops of a step from which device="auto" takes a GPU: below, a core is done before a grid of
#: blocks has met a dozen times, at a few microseconds each.
GPU_FROM_FLOPS = 5e6

#: Input arrays of a run by name. "X": C-contiguous (n, I) of float32 or float64, on the host or as
#: `device_matrix` returns it, or CSR in the plan's dtype. "y": int32 codes (n,) or C-contiguous
#: (n, O) of the plan's dtype, as the loss says. "sample_weight": float64 (n,), optional.
Streams = Mapping[str, Any]


class Runner(Protocol):
    """What a backend makes of a plan and a state. Holds the only copy of the state that is
    current until :meth:`read_state`.
    """

    @property
    def steps(self) -> int: ...

    @property
    def losses(self) -> list[float]: ...

    def run(
        self,
        orders: np.ndarray | None,
        scalars: np.ndarray,
        stop: np.ndarray | None = None,
        *,
        n_epochs: int | None = None,
    ) -> np.ndarray: ...

    def predict(self, X: Any, out: np.ndarray) -> np.ndarray: ...

    def evaluate(self, streams: Streams, out: np.ndarray) -> float: ...

    def gradients(self, parameters: np.ndarray, out: np.ndarray, decay: float) -> float: ...

    def read_state(self, state: State, *, last: bool = False) -> None: ...

    def write_state(self, state: State) -> None: ...

    def close(self) -> None: ...


class TableRunner:
    """Runs a plan's tables by the engine of its backend; see :func:`open_runner`.

    Attributes
    ----------
    steps : int
        Optimizer steps taken since it was opened.
    losses : list of float
        Mean losses of the whole epochs of the last call of :meth:`run`, also after an
        interrupt.
    """

    def __init__(self, plan: Plan, state: State | None, streams: Streams, threads: Threads) -> None:
        self.plan = plan
        self._streams = {name: _stream(name, value, plan) for name, value in streams.items()}
        _require_fit(self._streams, plan)
        self._engine: Any = engine_of(plan.backend)(plan, self._streams, *threads)
        self._losses = np.empty(0)
        self._first_step = 0
        if state is not None:
            self.write_state(state)

    @property
    def steps(self) -> int:
        return self._engine.steps

    @property
    def losses(self) -> list[float]:
        return self._losses[: self._engine.epochs].tolist()

    def run(
        self,
        orders: np.ndarray | None,
        scalars: np.ndarray,
        stop: np.ndarray | None = None,
        *,
        n_epochs: int | None = None,
    ) -> np.ndarray:
        """Train for some whole epochs, without the GIL.

        Parameters
        ----------
        orders : ndarray of intp, shape (M, E, n), or None
            Rows of each epoch in order, all or some; None for all in the natural order, then
            `n_epochs` says how many.
        scalars : ndarray of float64, shape (M, E * S, groups, scalars)
            Rate, momentum and decay of each parameter group in each of the S steps an epoch
            has, and what share a row has in its pair under mixup. A step uses up a row; a batch
            without weight is no step.
        stop : ndarray of float64, shape (M, 4), optional
            Best loss, tol, epochs without improvement, epochs to allow: scikit-learn's rule,
            applied after each epoch and kept up to date.
        n_epochs : int, optional
            E where `orders` is None.

        Returns
        -------
        ndarray of shape (M, epochs run)
            Mean loss of each epoch, the L2 penalty included.

        Raises
        ------
        KeyboardInterrupt
            The step under way is dropped whole; `steps` and `losses` tell how far it came.
        """
        if self.plan.optimizer is None:
            raise ValueError("run needs a plan of compile_training; this one has no optimizer.")
        n_epochs = orders.shape[1] if orders is not None else n_epochs
        if n_epochs is None:
            raise ValueError("run needs `orders` or `n_epochs`, got neither.")
        n_rows = self._streams["X"].shape[0]
        n = n_rows if orders is None else orders.shape[2]
        if n > n_rows:
            raise ValueError(f"orders are for {n} rows, but X has {n_rows}.")
        steps = n_epochs * -(-n // self.plan.batch_size)
        if scalars.shape != (1, steps, len(GROUPS), len(SCALARS)):
            raise ValueError(
                f"scalars must have shape {(1, steps, len(GROUPS), len(SCALARS))} for {n_epochs} "
                f"epochs of {n} rows, got {scalars.shape}."
            )
        rows = None if orders is None else np.ascontiguousarray(orders[0], dtype=np.intp)
        flat = np.ascontiguousarray(scalars[0], dtype=np.float64).reshape(steps, -1)
        self._losses = np.empty(n_epochs)
        done = self._engine.run(rows, flat, self._losses, None if stop is None else stop[0])
        return self._losses[None, :done]

    def predict(self, X: Any, out: np.ndarray) -> np.ndarray:
        """Forward pass with the runner's weights into `out`, (n, O) of the plan's dtype."""
        return _predict(self._engine, X, out, self.plan)

    def evaluate(self, streams: Streams, out: np.ndarray) -> float:
        """The same for rows with targets and perhaps weights; their mean loss, no penalty in it."""
        if not len(self.plan.evaluation_ops):
            raise ValueError("evaluate needs a plan that has targets; this one predicts.")
        streams = {**streams, "X": _readable_rows(streams["X"], self.plan)}
        streams = {name: _stream(name, value, self.plan) for name, value in streams.items()}
        _require_fit(streams, self.plan)
        _require_room(out, streams["X"], self.plan)
        weights = streams.get("sample_weight")
        loss = self._engine.evaluate(streams["X"], streams["y"], weights, out)
        return loss / (len(out) if weights is None else float(weights.sum()))

    def gradients(self, parameters: np.ndarray, out: np.ndarray, decay: float) -> float:
        """Mean loss at `parameters` (P,), the gradient into `out` (P,), L2 of `decay` in both."""
        if self.plan.optimizer is not None:
            raise ValueError("gradients needs a plan of compile_gradients; this one trains.")
        network = self.plan.network
        self._engine.pack("parameters", *record_views(network, parameters))
        scalars = np.zeros((1, len(GROUPS) * len(SCALARS)))
        scalars[0, GROUPS.index("weight") * len(SCALARS) + SCALARS.index("decay")] = decay
        loss, weight, squares = self._engine.gradient(scalars)
        self._engine.unpack("gradient", *record_views(network, out))
        weights = (weight_views(network, flat)[0] for flat in (out, parameters))
        for layer, gradient, value in zip(network.layers, *weights, strict=True):
            if layer.trained:
                gradient += decay * value
        out /= weight
        return (loss + 0.5 * squares) / weight

    def read_state(self, state: State, *, last: bool = False) -> None:
        """Copy step count and those weights and moments that are in `state` out to it.

        Under CSR input features have steps to catch up with. They do so on a copy, so that to look
        at a run changes no bit of it; or once and in threads, if this is the `last` call.
        """
        if last:
            self._engine.catch_up()
        state.step = self._first_step + self.steps
        for which, array in self._arrays(state):
            self._engine.unpack(which, *record_views(self.plan.network, array[0]))

    def write_state(self, state: State) -> None:
        """Take weights, step count and moments from `state`, which is not written to."""
        self._first_step = state.step - self.steps
        self._engine.draw_from(state.seed, state.step)
        for which, array in self._arrays(state):
            self._engine.pack(which, *record_views(self.plan.network, array[0]))

    def close(self) -> None:
        """Give the memory back; the runner is of no use after it."""
        self._engine = None

    def _arrays(self, state: State) -> list[tuple[str, np.ndarray]]:
        names = self.plan.optimizer.slots if self.plan.optimizer else ()
        fields = zip(slot_fields(self.plan.optimizer), names, strict=True)
        slots = [(field, state.slots[name]) for field, name in fields if name in state.slots]
        return slots if state.parameters is None else [("parameters", state.parameters), *slots]


def _stream(name: str, value: Any, plan: Plan) -> Any:
    """An input in the form that the kernels read; copies only what is not so already."""
    if name == "sample_weight":
        return np.ascontiguousarray(value, dtype=np.float64)
    if name == "y":
        codes = plan.network.loss.targets == "codes"
        return np.ascontiguousarray(value, dtype=np.int32 if codes else plan.dtype)
    if scipy.sparse.issparse(value):
        data = value.data.astype(plan.dtype, copy=False)
        indices = value.indices.astype(np.int32, copy=False)
        return _CSR(data, indices, value.indptr.astype(np.int64, copy=False), value.shape)
    if _on_device(value):
        return value  # of either dtype
    value = np.asarray(value)
    kept = value.dtype in (np.float32, np.float64)
    return np.ascontiguousarray(value, None if kept else plan.dtype)


def _on_device(X: Any) -> bool:
    """Whether X is what :func:`device_matrix` returns."""
    return type(X) is not np.ndarray and hasattr(X, "__cuda_array_interface__")


def _require_fit(streams: Streams, plan: Plan) -> None:
    """Refuse streams whose shapes do not fit the plan or each other: kernels do not look."""
    shapes = {name: stream.shape for name, stream in streams.items()}
    n = shapes["X"][0] if "X" in shapes else 0
    target = plan.network.loss.target_shape(n, plan.network.n_outputs)
    wanted = {"X": (n, plan.network.in_shape[0]), "y": target, "sample_weight": (n,)}
    for name, shape in shapes.items():
        if shape != wanted[name]:
            raise ValueError(f"stream {name!r} must have shape {wanted[name]}, got {shape}.")


def _predict(engine: Any, X: Any, out: np.ndarray, plan: Plan) -> np.ndarray:
    """A forward pass."""
    X = _stream("X", _readable_rows(X, plan), plan)
    _require_fit({"X": X}, plan)
    _require_room(out, X, plan)
    return engine.predict(X, out)


def _readable_rows(X: Any, plan: Plan) -> Any:
    """X of the plan's dtype: a forward pass reads dense rows in place."""
    if _on_device(X):
        return X.astype(plan.dtype)
    return X if scipy.sparse.issparse(X) else np.ascontiguousarray(X, dtype=plan.dtype)


def _require_room(out: np.ndarray, X: Any, plan: Plan) -> None:
    """Refuse an array that outputs cannot be written to."""
    shape = (X.shape[0], plan.n_outputs)
    if out.shape != shape or out.dtype != plan.dtype or not out.flags.carray:
        raise ValueError(
            f"out must be a writable C-contiguous array of {plan.dtype} and shape {shape}, "
            f"got {out.dtype} and {out.shape}."
        )


class _CSR:
    """The arrays of a CSR matrix with int32 column indices and int64 row pointers."""

    def __init__(
        self, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]
    ) -> None:
        self.data, self.indices, self.indptr, self.shape = data, indices, indptr, shape


def _numba_engine() -> Any:
    try:
        from hotloop.kernels import numba_cpu  # imports numba, which takes half a second
    except ImportError as error:
        reason = f"backend='numba' cannot be used: numba cannot be imported ({error})."
        raise ValueError(reason) from error
    return numba_cpu.Engine


def why_no_gpu() -> str | None:
    """The reason why there is no GPU to compute on, or None if there is one. Asks the driver, not
    numba, which takes half a second to import.
    """
    try:
        driver = ctypes.CDLL(kernels.CUDA_DRIVER)
        count = ctypes.c_int(0)
        found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    except (OSError, AttributeError):
        return "no CUDA driver is installed here"
    return None if found and count.value else "the CUDA driver finds no GPU that it can use"


def _why_no_cuda() -> str | None:
    """The same for whatever runs kernels: numba's simulator does, too."""
    if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") == "1":
        return None
    reason = why_no_gpu()
    return None if reason is None else f"{reason}; use device='cpu', or a machine with a GPU"


def _numba_cuda() -> Any:
    try:
        from numba import cuda

        usable = cuda.is_available()
        from hotloop.kernels import numba_cuda
    except ImportError as error:
        raise ValueError(
            f"device='cuda' cannot be used: numba cannot be imported ({error})."
        ) from error
    if not usable:
        raise ValueError(
            "device='cuda' cannot be used: numba finds no CUDA toolkit for the driver; "
            "pip install 'hotloop[cuda]'."
        )
    return numba_cuda


def _cuda_engine() -> Any:
    return _numba_cuda().Engine


def meeting(n: int) -> Any:
    """Where the fits of so many threads meet on a device, see
    :class:`hotloop.kernels.numba_cuda.Meeting`.
    """
    engine_of("cuda")  # or say why there is none
    return _numba_cuda().Meeting(n)


def _cuda_memory() -> Any:
    engine_of("cuda")  # or say why there is none
    from hotloop.kernels import cuda_memory

    return cuda_memory


def device_matrix(X: Any) -> Any:
    """X of the user where it lies on a CUDA device, see
    :func:`hotloop.kernels.cuda_memory.device_matrix`.
    """
    return _cuda_memory().device_matrix(X)


def copy_to_host(array: Any) -> np.ndarray:
    """A copy of an array of the user that lies on a CUDA device."""
    return _cuda_memory().copy_to_host(array)


def to_device(array: np.ndarray) -> Any:
    """A copy as an array of numba on the CUDA device."""
    return _cuda_memory().matrix(array)


#: Of every backend: how to get the class of its engines, or why there is none here.
ENGINES: Mapping[str, Callable[[], Any] | str] = {
    "compiled": (lambda: Engine) if kernels.COMPILED else kernels.abi.ABSENT,
    "numba": _numba_engine
    if find_spec("numba")
    else "numba is not installed; pip install 'hotloop[numba]'",
    "cuda": _cuda_engine
    if find_spec("numba")
    else "numba is not installed; pip install 'hotloop[cuda]'",
}


def why_unavailable(backend: str) -> str | None:
    """The reason a backend cannot be used here and what to do, or None if it can."""
    backend_of(backend)  # or say that there is none
    entry = ENGINES[backend]
    if isinstance(entry, str):
        return entry
    return _why_no_cuda() if backend == "cuda" else None


def chosen(backend: str) -> str:
    """Who is meant by the name of a backend, or by "auto"."""
    return kernels.DEFAULT_BACKEND if backend == "auto" else backend


def _asked_by(backend: str) -> str:
    """The parameter of an estimator that asks for a backend."""
    return f"backend={backend!r}" if backend in CPU_BACKENDS else f"device={backend!r}"


def chosen_for(device: str, backend: str, flops: float = 0.0) -> str:
    """Who computes, by the parameters of an estimator and the work of a step.

    Parameters
    ----------
    device : {"cpu", "cuda", "auto"}
        "auto" takes a GPU if there is one, nobody named a backend, and a step is at least
        `GPU_FROM_FLOPS`. numba's simulator is no GPU.
    backend : {"auto", "compiled", "numba"}
        Who computes on the CPU.
    flops : float
        About what a step takes.

    Raises
    ------
    ValueError
        If a backend is named for the device "cuda", which has its own.
    """
    if device == "cuda":
        if backend != "auto":
            raise ValueError(
                f"backend={backend!r} computes on the CPU, but device is 'cuda'. Set "
                "backend='auto' or device='cpu'."
            )
        return "cuda"
    large = device == "auto" and backend == "auto" and flops >= GPU_FROM_FLOPS
    if large and not isinstance(ENGINES["cuda"], str) and why_no_gpu() is None:
        return "cuda"
    return chosen(backend)


def work_of(network: Network, n_rows: int, row_entries: int | None = None) -> float:
    """About the flops of a step over so many rows, of so many entries if they are CSR."""
    first, *others = layer_shapes(network)
    inputs = first[0] if row_entries is None else min(first[0], row_entries)
    return 6.0 * n_rows * (inputs * first[1] + sum(i * o for i, o in others))


def times_faster(plan: Plan) -> float:
    """How much more than the CPU the device of a plan may be asked to do in a call."""
    return 1.0 if backend_of(plan.backend).device == "cpu" else 50.0


def device_of(backend: str) -> str:
    """Where a backend computes."""
    return backend_of(backend).device


def predicts_few_rows(backend: str) -> bool:
    """Whether a backend (or "auto") has :class:`FewRows` here."""
    return kernels.COMPILED and backend_of(chosen(backend)).in_place


def judge(function: Function, dtype: np.dtype, targets: np.ndarray | None = None) -> str:
    """Compile a function of the user for a dtype and try it, a loss beside some targets.

    Returns
    -------
    str
        Where its derivative is from: "given", "by complex steps" or "by differences".

    Raises
    ------
    ValueError
        If numba is not to be had, cannot compile it, it is NaN where it is tried, or its derivative
        is not that of its value.
    """
    if not find_spec("numba"):
        raise ValueError(
            f"{function.kind}={function.name} is compiled by numba, which is not installed; "
            "pip install 'hotloop[numba]'."
        )
    from hotloop.kernels import custom  # imports numba

    return custom.judge(function, dtype.name, () if targets is None else tuple(targets.tolist()))


def engine_of(backend: str) -> Any:
    """The class of a backend's engines: what :class:`hotloop.kernels.engine.Engine` is, or does as
    that does.

    Raises
    ------
    ValueError
        If the backend is not to be had here; the message says why.
    """
    reason = why_unavailable(backend)
    if reason is not None:
        raise ValueError(f"{_asked_by(backend)} cannot be used: {reason}.")
    make: Any = ENGINES[backend]
    return make()


def why_no_operands(name: str, backend: str = kernels.DEFAULT_BACKEND) -> str | None:
    """The reason why products cannot read numbers of a type here, or None if they can."""
    if not backend_of(backend).rounds:
        reason = f"{_asked_by(backend)} computes in float32 and float64"
        instead = "backend='compiled'" if backend in CPU_BACKENDS else "device='cpu'"
        return f"{reason}; use {instead}" if kernels.COMPILED else reason
    if kernels.provider(DTYPES[name]) is not None:
        return None
    return (
        f"it needs AVX512_BF16, and the instruction set in use here is {kernels.isa()} without "
        "that. Choose what runs instead: 'float32', which is the fastest here, or "
        "'bfloat16_emulated', which rounds as 'bfloat16' does and computes in float32"
    )


def open_runner(
    plan: Plan,
    state: State | None,
    streams: Streams,
    *,
    n_jobs: int | None = 1,
) -> Runner:
    """Make a runner of a plan: memory is taken, weights and moments are packed.

    Parameters
    ----------
    plan : Plan
        Its backend is who runs it.
    state : State or None
        Where training starts; None where parameters come with each call.
    streams : mapping of str to array
        See :data:`Streams`; read in place, never written, alive as long as the runner.
    n_jobs : int or None, default=1
        Threads that may share a step; see :func:`hotloop.threads.thread_count`.

    Returns
    -------
    Runner

    Raises
    ------
    ValueError
        If the plan's backend is not to be had here; the message says why.
    MemoryError
        If there is no room for the plan's buffers.
    """
    return TableRunner(plan, state, streams, thread_count(n_jobs))


def predict(
    plan: Plan,
    coefs: list[np.ndarray],
    intercepts: list[np.ndarray],
    X: Any,
    *,
    vectors: Sequence[np.ndarray] = (),
    n_jobs: int | None = 1,
) -> np.ndarray:
    """Forward pass with weights as they are now; safe from several threads.

    Parameters
    ----------
    plan : Plan
        Of :func:`hotloop.plan.compile_inference`.
    coefs, intercepts : list of ndarray
        (I, O) and (O,) of each layer.
    X : ndarray of shape (n, I) or CSR matrix
        Converted to the plan's dtype where it is not.
    vectors : sequence of ndarray
        (O,) of the normalizations, in the order of the flat vector.
    n_jobs : int or None, default=1
        Threads that may share the rows.

    Returns
    -------
    ndarray of shape (n, O)
        In the plan's dtype.
    """
    check_n_jobs(n_jobs)
    few = X.shape[0] < plan.inference_small_rows
    engine = engine_of(plan.backend)(plan, {}, *thread_count(1 if few else n_jobs))
    dtype = plan.dtype
    arrays = ([_readable(a, dtype) for a in some] for some in (coefs, intercepts, vectors))
    engine.pack("parameters", *with_vectors(*arrays))
    out = np.empty((X.shape[0], plan.n_outputs), dtype=dtype)
    return _predict(engine, X, out, plan)


def _readable(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array as kernels read it where it lies; a copy if it is not so already."""
    array = np.ascontiguousarray(array, dtype=dtype)
    return array if array.flags.aligned else array.copy()


def shuffle(rng: np.random.RandomState, orders: np.ndarray) -> None:
    """Shuffle row orders, each starting from the one before, as ``rng.shuffle`` would.

    Parameters
    ----------
    rng : RandomState
        Advanced as by one ``rng.shuffle`` an epoch.
    orders : ndarray of intp, shape (E, n)
        The first holds the order to start from; all are overwritten.
    """
    state = rng.get_state(legacy=False) if len(orders) > 1 else {}
    if kernels.COMPILED and state.get("bit_generator") == "MT19937":
        key = state["state"]["key"]
        state["state"]["pos"] = shuffle_orders(key, state["state"]["pos"], orders)
        rng.set_state(state)
        return
    for epoch, order in enumerate(orders):
        order[:] = orders[max(epoch - 1, 0)]
        rng.shuffle(order)


def random_words(seed: int, steps: np.ndarray, op: int) -> np.ndarray:
    """The generator's word (0, 0) of an op in each of some steps, uint64; see abi.h, hl_draw."""
    return philox.block(seed, steps, op, 0, 0)[0]


def config() -> dict[str, Any]:
    """What hotloop found on this machine: instruction sets, threads, versions, backends."""
    backends = {}
    try:
        threads: int | str = thread_count(None).wanted
    except ValueError as error:  # whoever looks here may be after just that
        threads = str(error)
    for name in ENGINES:
        reason = why_unavailable(name)
        backends[name] = "available" if reason is None else f"absent: {reason}"
    return {
        "instruction_set": kernels.isa(),
        "usable_instruction_sets": kernels.usable(),
        "products": {name: _provider(name) for name in DTYPES},
        "backend": chosen("auto"),
        "HOTLOOP_BACKEND": os.environ.get("HOTLOOP_BACKEND"),
        "HOTLOOP_ISA": os.environ.get("HOTLOOP_ISA"),
        "threads": threads,
        "HOTLOOP_NUM_THREADS": os.environ.get("HOTLOOP_NUM_THREADS"),
        "backends": backends,
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "scikit-learn": sklearn.__version__,
        },
        "platform": f"{platform.machine()} {sys.platform}",
    }


def _provider(name: str) -> str:
    """What multiplies matrices of a type."""
    if kernels.DEFAULT_BACKEND == "numba" and name in ("float32", "float64"):
        return "numba"
    return kernels.provider(DTYPES[name]) or f"absent: {why_no_operands(name)}"


def show_config() -> None:
    """Print what :func:`config` found.

    Examples
    --------
    >>> import hotloop
    >>> hotloop.show_config()  # doctest: +ELLIPSIS
    instruction_set: ...
    """
    for key, value in config().items():
        if isinstance(value, dict):
            print(f"{key}:")
            for name, entry in value.items():
                print(f"  {name}: {entry}")
        else:
            print(f"{key}: {', '.join(value) if isinstance(value, list) else value}")


__all__ = [
    "CPU_BACKENDS",
    "FewRows",
    "Runner",
    "Streams",
    "TableRunner",
    "check_n_jobs",
    "chosen",
    "chosen_for",
    "config",
    "copy_to_host",
    "device_matrix",
    "device_of",
    "judge",
    "meeting",
    "open_runner",
    "predict",
    "predicts_few_rows",
    "random_words",
    "shuffle",
    "times_faster",
    "to_device",
    "work_of",
]
