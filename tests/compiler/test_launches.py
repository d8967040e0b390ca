"""What a function launches, found in its TIR as it is scheduled and in the kernels that it is lowered to."""

from tvm.script import tirx as T

from edge_transact.compiler.launches import launches
from edge_transact.compiler.matmul import Matmul
from tests.support.gpu_kernels import lowered, selected
from tests.support.packed import W4F16


@T.prim_func(private=True)
def summed(x_: T.handle, total_: T.handle) -> None:
    T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
    n = T.int32()
    x = T.match_buffer(x_, (n,), "float32")
    total = T.match_buffer(total_, (64,), "float32")
    square = T.alloc_buffer((n, 2), "float32")
    for i in T.thread_binding((n + 7) // 8, thread="blockIdx.x"):
        tile = T.alloc_buffer((8, 3), "float16", scope="shared")
        for j in T.thread_binding(8, thread="threadIdx.x"):
            tile[j, 0] = T.float16(0)
            square[i * 8 + j, 0] = x[i * 8 + j] * x[i * 8 + j]
    for j in T.thread_binding(64, thread="threadIdx.x"):
        total[j] = square[j, 0]


def test_several_kernels_and_what_is_allocated_for_them():
    found = launches(summed)
    (n,) = summed.params[0].ty.shape
    assert [launch.threads({n: 20}) for launch in found.kernels] == [8, 64]
    assert [launch.local_bytes for launch in found.kernels] == [2 * 8 * 3, 0]
    assert [buffer.name for buffer in found.temporaries] == ["square"]


def test_lowered_kernels_tell_what_is_allocated():
    _, make = selected(Matmul("KN", "float16", W4F16, "float16", norm_eps=1e-5), 1, 64, 128)
    function = make()
    (before,) = launches(function).kernels
    (launch,) = launches(lowered(function, "product")["product_kernel"]).kernels
    assert launch.threads({}) == before.threads({})
    assert launch.local_bytes == before.local_bytes > 0
