"""A reshape of a reshape is one reshape or none, and the numbers stay where they are."""

import numpy as np
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from edge_transact.compiler.passes.cleanup import join_reshapes

SHAPES = [(24,), (2, 12), (4, 6), (2, 3, 4), (1, 24, 1)]


def reshaped(shapes):
    """A function that gives its input the shapes one after another."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shapes[0], "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = x
            for shape in shapes[1:]:
                y = builder.emit(relax.op.reshape(y, shape))
            y = builder.emit_output(y)
        builder.emit_func_output(y)
    return builder.finalize()


@settings(max_examples=20)
@given(st.lists(st.sampled_from(SHAPES), min_size=2, max_size=5))
def test_at_most_one_reshape_is_left(shapes):
    mod = join_reshapes(reshaped(shapes))
    assert mod.script().count("R.reshape(") == (shapes[0] != shapes[-1])
    machine = relax.VirtualMachine(tvm.compile(mod, target="llvm"), tvm.cpu())
    numbers = np.arange(24, dtype=np.float32).reshape(shapes[0])
    assert np.array_equal(machine["main"](tvm.runtime.tensor(numbers)).numpy(), numbers.reshape(shapes[-1]))


def test_what_is_used_in_between_stays():
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((24,), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            between = builder.emit(relax.op.reshape(x, (4, 6)))
            last = builder.emit(relax.op.reshape(between, (6, 4)))
            both = builder.emit_output(relax.Tuple([relax.op.nn.relu(between), last]))
        builder.emit_func_output(both)
    assert join_reshapes(builder.finalize()).script().count("R.reshape(") == 2
