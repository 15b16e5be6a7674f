"""The op table run by a CUDA device, through numba: memory, launches, and fits that share them.

The device side is ``cuda_ops.py``. Engines of one plan may lie in one pool: their runs are then
one launch, a block each. An engine that is alone has a pool to itself. What is uploaded: data once,
parameters when they are packed, and for each run its orders and the records of its steps; what
comes back after a run is a few numbers, and parameters when they are asked for.
"""

import ctypes
import threading
import time
import warnings
import weakref
from collections import namedtuple
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.sparse
from numba import cuda, typeof

from . import CUDA_DRIVER, DTYPES, KINDS, SCALARS, STAGES
from .cuda_memory import DEVICE, DeviceMatrix, empty, joined, matrix, upload
from .cuda_ops import kernels_with
from .cuda_words import (
    AT,
    CONSTANTS,
    ENTRIES,
    EPS,
    EPSILON,
    FIELDS,
    FIRST,
    JOB,
    PIECE,
    PLACES,
    RECORD,
    REPORT,
    REPORTED,
    SIMULATED,
    THREADS,
    TILE,
    TINY,
    Data,
    Memory,
    Tables,
)
from .numba_cpu import next_most, places_of

#: How long a launch may take: signals are answered between launches.
LAUNCH_SECONDS = 0.05
#: What an op of a step costs a grid, which meets after it, and what a block and a whole device do
#: in a second, in flops: rough figures of an H200 by which one launch for many models is chosen.
MEETING_SECONDS, BLOCK_FLOPS, DEVICE_FLOPS = 3e-6, 1.5e11, 1.5e13
#: Shared memory that a block may ask for, and what it needs for itself.
SHARED_BYTES, OWN_BYTES = 227 * 1024, 20 * 1024
#: Shared memory that needs no asking, what a block needs for itself included.
PLAIN_SHARED_BYTES = 48 * 1024
#: Elements of X that predictions upload at a time.
UPLOADED = 2**27

#: Integers of an op that are bytes in a plan, and elements here.
_OFFSETS = {
    *("input", "d_input", "output", "d_output", "row_loss", "weight", "weight_slot_0"),
    *("weight_slot_1", "weight_gradient", "bias", "bias_slot_0", "bias_slot_1"),
    *("bias_gradient", "shard_bytes", "slope", "weight_slot_2", "weight_average", "bias_slot_2"),
    *("bias_average", "clip_scale", "left", "right", "result", "norms"),
    *("statistics", "mean", "variance"),
}
#: Ops that a walk passes over: all steps of all features are taken at once, and GRADIENT_NORM sums
#: squares itself.
_PASSED = [KINDS["CSR_INDEX"], KINDS["CSR_CATCH_UP"], KINDS["GRADIENT_SQUARES"]]
_REFUSED = [KINDS["ROUND"]]
#: Products of matrices in a step of Muon.
_OF_MATRICES = [KINDS[f"MUON_{kind}"] for kind in ("GRAM", "POLYNOMIAL", "APPLY")]


def _handed(arrays):
    """Arrays as kernels take them: the simulator's are NumPy's."""
    return type(arrays)(*(a._ary if SIMULATED else a for a in arrays))


def table_of(ops, plan, store_size):
    """An op table as kernels read it: integers (n, FIELDS) and constants (n, CONSTANTS + losses).

    A weight that has no place in the store of the plan lies after its end.
    """
    if (ops["dtype"] != DTYPES[plan.dtype.name]).any() or np.isin(ops["kind"], _REFUSED).any():
        raise ValueError("a CUDA device runs ops of float32 and float64 only")
    ops = ops[~np.isin(ops["kind"], _PASSED)]
    table = np.zeros((len(ops), len(FIELDS)), np.int64)
    for name in FIELDS:
        if name != "meet":
            values = ops[name].astype(np.int64)
            inside = (values >= 0) & (name in _OFFSETS)
            table[:, getattr(AT, name)] = np.where(inside, values // plan.dtype.itemsize, values)
    table[:, AT.weight] = np.where(ops["weight"] < 0, store_size, table[:, AT.weight])
    table[:, AT.ld_weight] = np.where(ops["ld_weight"] <= 0, ops["O"], ops["ld_weight"])
    stages = [STAGES[kind] for kind in ops["kind"]]
    shard = KINDS["DENSE_BACKWARD_SHARD"]
    for k in range(len(ops) - 1):
        apart = stages[k] == "rows" and not (ops["kind"][k] == ops["kind"][k + 1] == shard)
        table[k, AT.meet] = apart or stages[k] != stages[k + 1]
    if len(ops) and ops["kind"][-1] == KINDS["LOSS"]:  # whose rows the first block sums up
        table[-1, AT.meet] = True
    limits = np.finfo(plan.dtype)
    constants = np.empty((len(ops), FIRST + len(plan.constants)))
    constants[:, TINY], constants[:, EPS] = limits.tiny, limits.eps
    for k, name in enumerate(CONSTANTS):
        if k not in (TINY, EPS):
            constants[:, k] = ops[name]
    constants[:, EPSILON] = np.maximum(ops["epsilon"], limits.tiny)
    constants[:, FIRST:] = plan.constants
    return table, constants


class Table(namedtuple("Table", "tables host kernels")):
    """Tables on the device, the integers of their ops on the host, and who runs them."""

    @classmethod
    def of(cls, ops, parameters, plan, store_size):
        """From records of a plan."""
        table, constants = table_of(ops, plan, store_size)
        places = table_of(parameters, plan, store_size)[0]
        kernels = kernels_with(plan.functions, plan.dtype.name)
        return cls(Tables(*map(matrix, (table, places, constants))), table, kernels)


def flops_of(table, rows):
    """About what a step over so many rows takes."""
    kinds = [KINDS[k] for k in KINDS if k.startswith(("DENSE_", "CSR_FORWARD", "CSR_BACKWARD"))]
    work, sizes = np.isin(table[:, AT.kind], kinds), table[:, [AT.I, AT.O]].astype(float)
    matrix = np.isin(table[:, AT.kind], _OF_MATRICES)
    depths = np.where(work, rows, np.where(matrix, sizes.min(axis=1), 0))
    return 2.0 * float((depths * sizes.prod(axis=1)).sum())


def blocks_of(table, rows):
    """Blocks that the largest op of a step keeps busy."""
    across = -(-table[:, AT.O] // TILE)
    tiles = max(-(-rows // TILE), 1) * np.maximum(across, -(-table[:, AT.I] // TILE))
    weights = (-(-(table[:, AT.I] + 1) // TILE)) * across
    shard = table[:, AT.shard_rows]
    weights *= np.where(shard > 0, -(-rows // np.maximum(shard, 1)), 1)
    return int(max(1, tiles.max(initial=1), weights.max(initial=1)))


# ------------------------------------------------------------------------------ data


class Uploads:
    """Streams of some fits, on the device: each array once, whoever reads it."""

    def __init__(self, dtype, all_streams):
        self.places = []
        parts: Any = {name: [] for name in Data._fields}
        starts = dict.fromkeys(Data._fields, 0)
        known: Any = {}

        def place(field, array, key):
            """Where an array begins among those of its field."""
            if (field, key) not in known:
                known[field, key] = starts[field]
                parts[field].append(array)
                starts[field] += array.size
            return known[field, key]

        for streams in all_streams:
            self.places.append(
                {
                    name: place(name, array, tuple(map(_identity, sources)))
                    for name, (array, *sources) in _arrays(streams, dtype).items()
                }
            )
        dtypes = dict(
            X=dtype, targets=dtype, weights=np.float64, codes=np.int32, indices=np.int32,
            indptr=np.int64, column_values=dtype, column_rows=np.int32, column_starts=np.int64,
        )  # fmt: skip
        self.data = Data(*(joined(parts[name], dtypes[name]) for name in Data._fields))


def _identity(array):
    """Equal for two views of the same memory."""
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is None and isinstance(array, np.ndarray):
        interface = array.__array_interface__
    if interface is None:
        return id(array)
    strides = interface.get("strides")  # None if it is contiguous
    return interface["data"][0], tuple(interface["shape"]), strides, interface["typestr"]


def _flat(array, dtype):
    """An array as a vector of a dtype, on the device if it lies there."""
    if isinstance(array, DeviceMatrix):
        return array.astype(dtype).array.reshape(-1)
    return np.ascontiguousarray(array, dtype).reshape(-1)


def _arrays(streams, dtype):
    """Arrays of a fit by their field, each with those it is known by."""
    X, y = streams.get("X"), streams.get("y")
    found: dict[str, Any] = {}
    if X is not None and hasattr(X, "indptr"):
        parts = X.data, X.indices, X.indptr  # matrices that share one may differ in another
        values = np.ascontiguousarray(X.data, dtype)
        found["X"], found["indices"], found["indptr"] = (
            (array, *parts) for array in (values, X.indices, X.indptr)
        )
        if y is not None:
            columns = scipy.sparse.csr_matrix((values, X.indices, X.indptr), X.shape).tocsc()
            found["column_values"] = columns.data, *parts
            found["column_rows"] = columns.indices.astype(np.int32, copy=False), *parts
            found["column_starts"] = columns.indptr.astype(np.int64), *parts
    elif X is not None:
        found["X"] = _flat(X, dtype), X
    if y is not None:
        codes = y.dtype == np.int32
        found["codes" if codes else "targets"] = _flat(y, y.dtype if codes else dtype), y
    if "sample_weight" in streams:
        found["weights"] = streams["sample_weight"], streams["sample_weight"]
    return found


# ------------------------------------------------------------------------------ launches


class Call:
    """A run of an engine: its records, its orders, and what it reports."""

    def __init__(self, engine, records, orders, report):
        self.engine, self.records, self.report = engine, records, report
        self.ordered = orders is not None
        self.orders = orders if self.ordered else np.zeros((0, 0), np.intp)
        self.done = False
        self.error = None


class Pool:
    """Memory for models of one plan, and the launches that run some of them at once.

    Parameters
    ----------
    plan : hotloop.plan.Plan
    capacity : int
        Models at most.
    """

    def __init__(self, plan, capacity):
        item = plan.dtype.itemsize
        self.plan, self.capacity = plan, capacity
        plain = [int(o["I"] * o["O"]) for o in plan.parameter_ops if o["weight"] < 0]
        self.stored = plan.store_bytes // item
        self.size = self.stored + sum(plain)
        self.arena_size = max(1, plan.arena_bytes // item)
        ops = plan.ops
        self.training = Table.of(ops, plan.parameter_ops, plan, self.stored)
        self.inference = Table.of(plan.inference_ops, plan.parameter_ops, plan, self.stored)
        self.evaluation = Table.of(plan.evaluation_ops, plan.parameter_ops, plan, self.stored)
        self.pieces = int(sum(-(-int(o["I"] * o["O"]) // PIECE) for o in plan.parameter_ops))
        if KINDS["GRADIENT_NORM"] in plan.ops["kind"]:  # those of gradients, too
            sizes = [int(o["I"] * o["O"] + o["O"]) for o in plan.parameter_ops]
            self.pieces += sum(-(-size // PIECE) for size in sizes)
        self.store = empty(capacity * self.size, plan.dtype)
        self._free = list(range(capacity))[::-1]
        self._members: Any = [{}] * capacity  # a list: who leaves does not change its size
        self._uploads: Any = None
        self._work: Any = None
        self._most = 1

    def join(self, streams):
        """A slot for a model, or None if all are taken."""
        if not self._free:
            return None
        slot = self._free.pop()
        self._members[slot] = streams
        self._uploads = self._work = None
        return slot

    def leave(self, slot):
        """Gives a slot back; the garbage collector may call it, from any thread at any time."""
        self._members[slot] = {}
        self._free.append(slot)

    def part(self, slot):
        """The store of a model."""
        return self.store[slot * self.size : (slot + 1) * self.size]

    def run(self, calls, interrupted=lambda: False):
        """Runs the records of some calls to their end, in launches of bounded length."""
        where, arrays = self._prepared(calls)
        reports = arrays[2]
        bounds = np.cumsum([0, *(len(call.records) for call in calls)])
        jobs = np.stack([self._job(call, where[call.engine.slot]) for call in calls])
        starts = np.cumsum([0, *(call.report.size for call in calls)])
        jobs[:, JOB.report] = starts[:-1]
        jobs[:, JOB.order] = np.cumsum([0, *(call.orders.size for call in calls)])[:-1]
        jobs[:, JOB.last] = bounds[:-1]
        try:
            while (jobs[:, JOB.last] < bounds[1:]).any():
                if interrupted():
                    raise KeyboardInterrupt
                jobs[:, JOB.first] = jobs[:, JOB.last]
                jobs[:, JOB.last] = np.minimum(jobs[:, JOB.first] + self._most, bounds[1:])
                start = time.perf_counter()
                self._launch(calls, jobs, arrays)
                seconds = time.perf_counter() - start
                self._most = next_most(self._most, seconds, LAUNCH_SECONDS)
        finally:
            with DEVICE:
                back = reports.copy_to_host()
            for call, start in zip(calls, starts[:-1], strict=True):
                call.report[:] = back[start : start + call.report.size]

    def _prepared(self, calls):
        """Where each member's data lies, and the arrays of a launch."""
        if self._uploads is None:
            uploads = Uploads(self.plan.dtype, self._members)
            self._uploads = uploads.places, uploads.data
        if self._work is None:
            n = max(map(_rows_of, self._members))
            self.inverts = _CSR_BACKWARD in self.plan.ops["kind"].tolist()
            self.positions = n if self.inverts else 1
            taken = 1 + max(slot for slot, streams in enumerate(self._members) if streams)
            self._work = (
                empty(taken * self.arena_size, self.plan.dtype),
                empty(taken * self.positions, np.int32),
                empty(taken * max(1, self.pieces), np.float64),
                empty(1, self.plan.dtype),
            )
        orders = [c.orders.reshape(-1) for c in calls if c.ordered]
        arrays = (
            matrix(np.concatenate([c.records for c in calls])),
            upload(np.concatenate(orders).astype(np.int32)) if orders else empty(1, np.int32),
            upload(np.concatenate([c.report for c in calls])),
        )
        return self._uploads[0], arrays

    def _job(self, call, where):
        slot, streams = call.engine.slot, self._members[call.engine.slot]
        n, weights = _rows_of(streams), "weights" in where
        places = {
            "store": slot * self.size,
            "arena": slot * self.arena_size,
            "positions": slot * self.positions,
            "partials": slot * max(1, self.pieces),
            "X": where.get("X", 0),
            "targets": where.get("targets", 0),
            "weights": where.get("weights", 0),
            "codes": where.get("codes", 0),
            "entries": where.get("indices", 0),
            "indptr": where.get("indptr", 0),
            "columns": where.get("column_starts", 0),
            "n": call.orders.shape[1] if call.ordered else n,
            "ordered": call.ordered,
            "weighted": weights,
            "size": self.size,
            "inverted": n if self.inverts and call.ordered else -1,
            "seed_low": call.engine.seed % 2**32,
            "seed_high": call.engine.seed >> 32,
        }
        return np.array([places.get(name, 0) for name in PLACES], np.int64)

    def _launch(self, calls, jobs, arrays):
        arena, positions, partials, out = self._work
        memory = Memory(self.store, arena, positions, partials, out)
        batch = self.plan.batch_size
        data = self._uploads[1]
        launch(self.training, memory, data, jobs, arrays, (batch, self.size))


_N_SCALARS = 2 * len(SCALARS)
_CSR_BACKWARD = KINDS["CSR_BACKWARD_WEIGHT"]


def _rows_of(streams):
    return streams["X"].shape[0] if "X" in streams else 0


def in_blocks(table, n_jobs, rows, n_bytes):
    """Whether one block for each model takes less time than the whole grid for one at a time."""
    if n_bytes > SHARED_BYTES - OWN_BYTES and n_jobs == 1:
        return False
    flops = flops_of(table, rows)
    by_grid = n_jobs * (len(table) * MEETING_SECONDS + flops / DEVICE_FLOPS)
    return flops / BLOCK_FLOPS < by_grid


def launch(table, memory, data, jobs, arrays, sizes):
    """Runs the records of jobs by the device, and waits for it.

    Parameters
    ----------
    table : Table
    memory : Memory
    data : Data
    jobs : ndarray of int64, shape (n, PLACES)
    arrays : tuple
        Records, orders and reports, on the device.
    sizes : tuple of int
        Rows of a batch, and elements of a store.
    """
    rows, size = sizes
    run_blocks, run_grid = table.kernels
    records, orders, reports = arrays
    n_bytes = size * memory.store.dtype.itemsize
    tables, memory, data = (_handed(x) for x in (table.tables, memory, data))
    with DEVICE:
        if in_blocks(table.host, len(jobs), rows, n_bytes):
            arguments = tables, memory, data, matrix(jobs), records, orders, reports
            shared = n_bytes if n_bytes <= SHARED_BYTES - OWN_BYTES else 0
            shared = _granted(run_blocks, arguments, shared)
            _start(run_blocks, arguments, len(jobs), shared)
        else:
            for job in jobs[jobs[:, JOB.first] < jobs[:, JOB.last]]:
                arguments = tables, memory, data, matrix(job[None]), records, orders, reports
                blocks = min(blocks_of(table.host, rows), _most_blocks(run_grid, arguments))
                _start(run_grid, arguments, blocks, 0)
        cuda.synchronize()


def _start(kernel, arguments, blocks, shared):
    """Begins a launch; that it has few blocks is no news to warn of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Grid size .* low occupancy")
        configured = kernel[blocks, THREADS, 0, shared]
    configured(*arguments)


def _compiled(kernel, arguments):
    """A kernel for the types of its arguments."""
    return kernel.compile(tuple(typeof(argument) for argument in arguments))


def _most_blocks(kernel, arguments):
    """Blocks that can run at the same time."""
    if SIMULATED:
        return 1  # its grid barrier knows no more
    return _compiled(kernel, arguments).max_cooperative_grid_blocks(THREADS)


def _granted(kernel, arguments, n_bytes):
    """So much shared memory, if the device lets a block have it, else none: a block then works on
    global memory. More than a little must be asked for by a call that numba has no name for.
    """
    if SIMULATED or n_bytes <= PLAIN_SHARED_BYTES - OWN_BYTES:
        return n_bytes
    function = _compiled(kernel, arguments)._codelibrary.get_cufunc()
    place = ctypes.c_void_p(int(getattr(function.handle, "value", function.handle)))
    most_dynamic = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    try:
        driver = ctypes.CDLL(CUDA_DRIVER)
        if type(function.handle).__name__ == "CUkernel":  # that of newer numba-cuda
            refused = driver.cuKernelSetAttribute(most_dynamic, n_bytes, place, function.device.id)
        else:
            refused = driver.cuFuncSetAttribute(place, most_dynamic, n_bytes)
    except (OSError, AttributeError):
        return 0
    return 0 if refused else n_bytes


# ------------------------------------------------------------------------------ engines


class Meeting:
    """Fits in several threads whose runs meet, and are launched together.

    Parameters
    ----------
    n : int
        Threads; each has to enter `member` once.
    """

    def __init__(self, n):
        self.n = n
        self._present = n
        self._waiting = []
        self._changed = threading.Condition()
        self._pools = {}
        self._interrupted = False

    @contextmanager
    def member(self):
        """One of the threads: engines it opens share pools with those of the others."""
        _MINE.meeting = self
        try:
            yield
        finally:
            _MINE.meeting = None
            with self._changed:
                self._present -= 1
                self._launch_if_all_wait()

    def interrupt(self):
        """Ends all runs as Ctrl-C does a run that is alone."""
        self._interrupted = True  # before the lock, which whoever launches has until he sees this
        with self._changed:
            self._changed.notify_all()

    def pool(self, plan):
        """The pool of a plan, and of all that were compiled from the same."""
        key = (
            *(str(plan.dtype), plan.batch_size, plan.ops.tobytes(), plan.inference_ops.tobytes()),
            *(plan.functions, plan.constants),  # which ops have by their number only
        )
        with self._changed:
            if key not in self._pools:
                self._pools[key] = Pool(plan, self.n)
            return self._pools[key]

    def run(self, call):
        """Waits until every thread that is left does, and then for the launch of them all."""
        with self._changed:
            self._waiting.append(call)
            self._launch_if_all_wait()
            while not call.done and not self._interrupted:
                self._changed.wait()
            if not call.done:
                self._waiting.remove(call)
                raise KeyboardInterrupt
        if call.error is not None:
            raise call.error

    def _launch_if_all_wait(self):
        if not self._waiting or len(self._waiting) < self._present:
            return
        calls, self._waiting = self._waiting, []
        for pool in {call.engine.pool: None for call in calls}:
            its_calls = [call for call in calls if call.engine.pool is pool]
            try:
                pool.run(its_calls, lambda: self._interrupted)
            except BaseException as error:
                for call in its_calls:
                    call.error = error
        for call in calls:
            call.done = True
        self._changed.notify_all()


#: The meeting that a thread is a member of, if any.
_MINE = threading.local()


def records_of(plan, shape, scalars, weights=None):
    """Records of epochs, or of one pass without an optimizer.

    Parameters
    ----------
    plan : Plan
    shape : tuple of int
        Epochs and rows of each.
    scalars : ndarray of shape (steps, groups * kinds)
        As they are used up: a batch without weight is no step.
    weights : ndarray of shape (epochs, rows), optional
        Sample weights in the order of the epochs.

    Returns
    -------
    ndarray of float64, shape (n, entries)
    """
    n_epochs, n = shape
    starts = np.arange(0, n, plan.batch_size)
    rows = np.minimum(plan.batch_size, n - starts)
    records = np.zeros((n_epochs, len(starts) + 1, len(ENTRIES) - 1 + scalars.shape[1]))
    records[:, :, RECORD.epoch] = np.arange(n_epochs)[:, None]
    records[:, :-1, RECORD.start], records[:, :-1, RECORD.rows] = starts, rows
    sums = np.broadcast_to(rows, (n_epochs, len(rows))).astype(np.float64)
    if weights is not None and n:
        sums = np.add.reduceat(weights, starts, axis=1)
    kept = np.ones(records.shape[:2], bool)
    kept[:, :-1] = sums != 0
    with np.errstate(divide="ignore", invalid="ignore"):
        records[:, :-1, RECORD.inverse_weight] = 1 / sums
        records[:, :-1, RECORD.factor] = rows / sums
    steps = kept[:, :-1]
    records[:, :-1, RECORD.scalars :][steps] = scalars[: steps.sum()]
    records[:, :-1, RECORD.penalty] = 0.5 * (
        records[:, :-1, RECORD.scalars + SCALARS.index("decay") :: len(SCALARS)].any(axis=-1)
    )
    return records[kept]


class Engine:
    """What the compiled ``engine.Engine`` is, for a CUDA device; see there.

    Parameters
    ----------
    plan : hotloop.plan.Plan
        Compiled for the backend "cuda".
    streams : dict of str to array
        "X", and for training "y" and optionally "sample_weight".
    n_threads, limit : int
        Not used.
    """

    threads = 1

    def __init__(self, plan, streams, n_threads=1, limit=1):
        self.plan = plan
        self._meeting = getattr(_MINE, "meeting", None) if streams else None
        self.pool = self._meeting.pool(plan) if self._meeting else Pool(plan, 1)
        self.slot = self.pool.join(streams)
        if self.slot is None:  # more engines of a plan than fits
            self._meeting, self.pool = None, Pool(plan, 1)
            self.slot = self.pool.join(streams)
        weakref.finalize(self, self.pool.leave, self.slot)
        self._streams = streams
        self._n_rows = streams["X"].shape[0] if "X" in streams else 0
        self._host = np.zeros(self.pool.size, plan.dtype)
        self._host_is_new, self._host_is_current = True, True
        self._report = np.zeros(len(REPORTED))
        self._steps = self._first_step = 0
        self.seed = 0
        self._busy = False

    @property
    def epochs(self):
        return int(self._report[REPORT.epochs])

    @property
    def steps(self):
        return self._steps

    def pack(self, which, weights, biases):
        """Copies plain row-major arrays into the store."""
        self._download()
        for op, weight, bias in zip(self.plan.parameter_ops, weights, biases, strict=True):
            there, bias_there = self._places(op, which)
            there[...], bias_there[...] = weight, bias
        self._host_is_new = True

    def unpack(self, which, weights, biases):
        """The way back; ``which`` may also be "gradient"."""
        self._download()
        for op, weight, bias in zip(self.plan.parameter_ops, weights, biases, strict=True):
            there, bias_there = self._places(op, which)
            weight[...], bias[...] = there, bias_there

    def _places(self, op, which):
        """Views of a layer's weight and bias of one sort in the copy on the host."""
        there, bias = places_of(op, which, self._host)
        if there is None:
            if which != "parameters":
                raise ValueError(f"the store has no {which} of this plan to read")
            I, O = int(op["I"]), int(op["O"])
            there = self._host[self.pool.stored :][: I * O].reshape(I, O)
        return there, bias

    def _download(self):
        """Brings the copy on the host up to date."""
        if not self._host_is_current:
            with DEVICE:
                self.pool.part(self.slot).copy_to_host(self._host)
            self._host_is_current = True

    def _upload(self):
        """Brings the device up to date."""
        if self._host_is_new:
            with DEVICE:
                self.pool.part(self.slot).copy_to_device(self._host)
            self._host_is_new = False

    def draw_from(self, seed, step):
        """Random words are those of a seed from now on, and the next step has that number."""
        self.seed, self._first_step = seed, step - self._steps

    def catch_up(self):
        """Nothing: no feature misses a step."""

    def run(self, orders, scalars, losses, stop):
        """Trains for whole epochs; see the compiled one."""
        if self._busy:
            raise RuntimeError("this runner is running already; open one for each thread")
        self._busy = True
        n = self._n_rows if orders is None else orders.shape[1]
        weights, shape = self._streams.get("sample_weight"), (len(losses), n)
        if weights is not None:
            weights = weights[orders] if orders is not None else np.tile(weights, (shape[0], 1))
        records = records_of(self.plan, shape, scalars, weights)
        steps = np.cumsum(records[:, RECORD.rows] > 0) - 1
        records[:, RECORD.step] = (self._first_step + self._steps + steps) % 2**32
        self._report = report = np.zeros(len(REPORTED) - 1 + len(losses))
        if stop is not None:
            report[REPORT.ruled] = 1
            report[REPORT.best : REPORT.patience + 1] = stop
        try:
            self._run(records, orders)
        finally:
            self._busy = False
            self._steps += int(report[REPORT.steps])
            losses[: self.epochs] = report[REPORT.losses :][: self.epochs]
            if stop is not None:
                stop[:] = report[REPORT.best : REPORT.patience + 1]
        return self.epochs

    def _run(self, records, orders):
        """Runs records to their end, with others if they meet."""
        self._upload()
        self._host_is_current = False
        call = Call(self, records, orders, self._report)
        if self._meeting is not None:
            self._meeting.run(call)
        else:
            self.pool.run([call])

    def gradient(self, scalars):
        """Sums the gradients of all rows into the store; see the compiled one."""
        weights, n = self._streams.get("sample_weight"), self._n_rows
        n_steps = -(-n // self.plan.batch_size)
        records = records_of(self.plan, (1, n), np.zeros((n_steps, scalars.shape[1])))[:-1]
        records[:, RECORD.factor] = 1
        records[1:, RECORD.accumulate] = 1
        self._download()
        squares = 0.0
        for op in self.plan.parameter_ops:
            decay = scalars[0, op["weight_group"] * len(SCALARS) + SCALARS.index("decay")]
            weight = self._places(op, "parameters")[0].astype(np.float64)
            squares += decay * float(np.vdot(weight, weight))
        self._report = np.zeros(len(REPORTED))
        self._run(records, None)
        return float(self._report[REPORT.loss]), n if weights is None else weights.sum(), squares

    def predict(self, X, out):
        """Forward pass of the rows of X into out, (n, O); safe to call from several threads."""
        self._infer(self.pool.inference, {"X": X}, out)
        return out

    def evaluate(self, X, y, weights, out):
        """The same, and the sum of the losses of these rows; see the compiled one."""
        streams = {"X": X, "y": y}
        if weights is not None:
            streams["sample_weight"] = weights
        return self._infer(self.pool.evaluation, streams, out)

    def _infer(self, table, streams, out):
        """All rows through a table of forward ops; returns the sum of their losses, if any."""
        self._upload()
        X, total = streams["X"], 0.0
        width = max(1, X.shape[1])
        most = max(1, UPLOADED // width // self.plan.inference_rows) * self.plan.inference_rows
        if hasattr(X, "indptr"):
            most = max(1, len(out))  # a CSR matrix is not cut
        arena = empty(self.plan.inference_arena_bytes // out.itemsize, out.dtype)
        for first in range(0, len(out), most):
            part = slice(first, min(first + most, len(out)))
            rows = streams if most >= len(out) else {k: v[part] for k, v in streams.items()}
            total += self._infer_part(table, rows, arena, out[part])
        return total

    def _infer_part(self, table, streams, arena, out):
        pool, n, chunk = self.pool, len(out), self.plan.inference_rows
        uploads = Uploads(self.plan.dtype, [streams])
        on_device = hasattr(out, "copy_to_host")
        result = out.reshape(-1) if on_device else empty(out.size, out.dtype)
        scratch = empty(1, np.int32), empty(1, np.float64), result
        memory = Memory(pool.store, arena, *scratch)
        starts = np.arange(0, n, chunk)
        records = np.zeros((len(starts), len(ENTRIES) - 1 + _N_SCALARS))
        records[:, RECORD.start], records[:, RECORD.rows] = starts, np.minimum(chunk, n - starts)
        records[:, RECORD.factor] = 1
        job = {"store": self.slot * pool.size, "size": pool.size, "n": n, "last": len(starts)}
        job |= {"inverted": -1, "weighted": "sample_weight" in streams}
        jobs = np.array([[job.get(name, 0) for name in PLACES]], np.int64)
        report = upload(np.zeros(len(REPORTED)))
        arrays = matrix(records), empty(1, np.int32), report
        launch(table, memory, uploads.data, jobs, arrays, (min(n, chunk), pool.size))
        with DEVICE:
            if not on_device:
                out.reshape(-1)[:] = result.copy_to_host()[: out.size]
            return float(report.copy_to_host()[REPORT.loss]) if "y" in streams else 0.0
