"""What the functions on a CUDA device call what they are handed, and who a thread is among others.

Tables, jobs, records and reports are arrays of numbers: the names here are their columns.
"""

from collections import namedtuple
from typing import Any

from numba import config, cuda

from . import SCALARS

SIMULATED = bool(config.ENABLE_CUDASIM)
#: A block makes TILE x TILE elements of a product, each thread MICRO x MICRO of them, from slices
#: of DEPTH elements of the reduction; squares of weights are summed in pieces of PIECE.
TILE, MICRO, DEPTH, PIECE = (4, 2, 3, 16) if SIMULATED else (64, 4, 16, 4096)
SIDE = TILE // MICRO
THREADS = SIDE * SIDE
SLICE = DEPTH, TILE + 1  # one more, so that a column lies in different banks

#: Columns of an op in a table: integers, offsets in elements. `meet`: whether all wait after it.
FIELDS = (
    *("kind", "meet", "activation", "loss", "gradient", "optimizer", "weight_group", "bias_group"),
    *("from_stream", "lazy", "I", "O", "input", "d_input", "output", "d_output", "ld_input"),
    *("ld_d_input", "ld_output", "row_loss", "ld_weight", "weight", "weight_slot_0"),
    *("weight_slot_1", "weight_gradient", "bias", "bias_slot_0", "bias_slot_1", "bias_gradient"),
    *("shard_rows", "shard_bytes", "function", "slope", "ld_slope"),
    *("weight_slot_2", "weight_average", "bias_slot_2", "bias_average", "clip_scale", "extended"),
    *("normalization", "statistics", "mean", "variance"),
    *("draw", "threshold"),
    *("left", "right", "result", "ld_matrix", "norms", "nesterov"),
)
AT: Any = namedtuple("AT", FIELDS)(*range(len(FIELDS)))
#: Of a model in a launch: where what it has begins in the arrays of all, and which records it runs.
PLACES = (
    *("store", "arena", "positions", "partials", "out", "X", "targets", "weights", "codes"),
    *("entries", "indptr", "columns", "first", "last", "order", "n", "ordered", "weighted"),
    *("report", "size", "inverted", "seed_low", "seed_high"),
)
JOB: Any = namedtuple("JOB", PLACES)(*range(len(PLACES)))
#: Of a record, which is a step, or the end of an epoch if it has no rows. `factor` takes the loss
#: of its rows to its share in the loss of the epoch, `penalty` is the L2 penalty's part in that.
#: `step` is the number of the step, for what is drawn; scalars follow.
_STEP = ("epoch", "start", "rows", "inverse_weight", "factor", "penalty", "accumulate", "step")
ENTRIES = (*_STEP, "scalars")
RECORD: Any = namedtuple("RECORD", ENTRIES)(*range(len(ENTRIES)))
#: What a model reports; the losses of its epochs follow. `ruled`: whether the stopping rule is on.
REPORTED = (
    *("loss", "squares", "epochs", "stopped", "steps", "ruled"),
    *("best", "tol", "failed", "patience", "losses"),
)
REPORT: Any = namedtuple("REPORT", REPORTED)(*range(len(REPORTED)))

Tables = namedtuple("Tables", "ops parameters constants")
Memory = namedtuple("Memory", "store arena positions partials out")
Data = namedtuple(
    "Data", "X targets weights codes indices indptr column_values column_rows column_starts"
)
#: Who works: a thread of a block of a team, and what its block shares.
Team = namedtuple("Team", "thread block blocks left right sums")
#: The rows of a step, what its optimizer is to know, and the seed of what is drawn. Row r is the
#: partner of that row, `turn` rows further on, where turn is not 0.
Batch = namedtuple("Batch", "first n ordered weighted order record seed turn")
#: A factor of a product: element (r, k) is at start + r * row + k * depth; row `ones` is all 1.
Factor = namedtuple("Factor", "array start row depth ones")
#: Of products: rows, columns, and the reduction, which may be cut into shards of `shard` elements.
Shape = namedtuple("Shape", "rows columns depth shards shard")
#: How an element of a parameter is stepped on; slots are so far from it.
Rule = namedtuple(
    "Rule", "optimizer rate decay beta rest beta_2 rest_2 inverse epsilon tiny slot_0 slot_1"
)
#: Of the weight and the bias of an op. Row `bias_row` of a product is the gradient of the bias,
#: which is at `bias`; those of shards are `apart`.
Rules = namedtuple("Rules", "of_weight of_bias bias_row bias apart")
#: What becomes of an element of a product, by the mode: `place` and `ld` are where it goes, `other`
#: where the bias is, or what the activation made, or what is added to `scale` times the product,
#: `shift` times. Slopes are at `slope`, if that is not negative.
Sink = namedtuple("Sink", "mode activation place ld other other_ld slope slope_ld scale shift")
FORWARD, SLOPE, STEP, OVERWRITE, ACCUMULATE, COMBINE = range(6)

#: Columns of an op's constants; those of losses follow from FIRST on.
CONSTANTS = (
    *("beta_2", "epsilon", "tiny", "eps", "l1_ratio", "clip_value", "clip_norm", "max_norm"),
    *("smoothing", "scale", "shift"),
)
BETA_2, EPSILON, TINY, EPS, L1_RATIO, CLIP_VALUE, CLIP_NORM, MAX_NORM = range(8)
SMOOTHING, SCALE, SHIFT, FIRST = range(8, 12)
N_SCALARS = len(SCALARS)


def device(function):
    """A function that kernels call; plain Python in the simulator, which would swap names anew."""
    return function if SIMULATED else cuda.jit(device=True)(function)


@device
def first_of(team):
    """The first element that is this thread's; the others are `stride_of` apart."""
    return team.block * THREADS + team.thread


@device
def stride_of(team):
    """Threads of the team."""
    return team.blocks * THREADS


@device
def least(a, b):
    """The smaller of two numbers; numba's own min is not there for kernels."""
    return a if a < b else b


@device
def row_of(batch, r):
    """Row of the streams that is row r of the batch, or its partner."""
    turned = r + batch.turn
    place = batch.first + (turned if turned < batch.n else turned - batch.n)
    return batch.order[place] if batch.ordered else place


@device
def weight_of(batch, data, r):
    """Sample weight of row r of the batch."""
    return data.weights[row_of(batch, r)] if batch.weighted else 1.0
