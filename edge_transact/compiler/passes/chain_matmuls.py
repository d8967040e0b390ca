"""Joins consecutive matmuls into one kernel, which leads its threads from one matmul to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from tvm import IRModule, relax, tirx

from edge_transact.compiler.matmul import ChainedMatmul, Matmul, Rows
from edge_transact.compiler.passes.calls import count_readers, relax_functions, with_blocks

MakeChain = Callable[[tuple[ChainedMatmul, ...], Rows], tirx.PrimFunc]
"""Makes a chain's kernel, whose arguments are those of all the matmuls, then the results that are returned."""


def chain_matmuls(mod: IRModule, kinds: Mapping[str, Matmul], make: MakeChain, rows: Rows, name: str) -> IRModule:
    """Replace each run of matmuls with nothing between them by one call of a kernel called `name`.

    `kinds` are the matmuls that kernels compute, by the kernel's name; they have the same kind of rows.
    """
    chainer = _Chainer(mod, kinds, make, rows, name)
    for var, function in relax_functions(mod):
        if isinstance(function.body, relax.SeqExpr):
            chainer.builder.update_func(var, chainer.rewritten(function))
    return chainer.builder.get()


class _Chainer:
    def __init__(self, mod: IRModule, kinds: Mapping[str, Matmul], make: MakeChain, rows: Rows, name: str) -> None:
        self.builder, self.kinds, self.make, self.rows, self.name = relax.BlockBuilder(mod), kinds, make, rows, name
        self.kernels: dict[tuple[ChainedMatmul, ...], relax.GlobalVar] = {}

    def rewritten(self, function: relax.Function) -> relax.Function:
        blocks, result = function.body.blocks, function.body.body
        return with_blocks(function, [self._block(block, blocks, result) for block in blocks])

    def _block(
        self, block: relax.BindingBlock, blocks: Sequence[relax.BindingBlock], result: relax.Expr
    ) -> relax.BindingBlock:
        if not isinstance(block, relax.DataflowBlock):
            return block
        runs: list[list[relax.Binding]] = [[]]
        for binding in block.bindings:
            if self._is_matmul(binding) and (not runs[-1] or self._is_matmul(runs[-1][-1])):
                runs[-1].append(binding)
            else:
                runs.append([binding])
        if not any(len(run) > 1 for run in runs):
            return block
        readers = count_readers(binding.value for each in blocks for binding in each.bindings) + count_readers([result])
        made: list[relax.Binding] = []
        for run in runs:
            if len(run) < 2:
                made += run
                continue
            own = count_readers(binding.value for binding in run)
            made += self._joined(run, {binding.var for binding in run if readers[binding.var] > own[binding.var]})
        return relax.DataflowBlock(made)

    def _joined(self, run: Sequence[relax.Binding], used: set[relax.Var]) -> Iterator[relax.Binding]:
        """One call for the run; results that are used elsewhere keep their names."""
        number_of = {binding.var: number for number, binding in enumerate(run)}
        matmuls, arguments = [], []
        for binding in run:
            matmul = self.kinds[binding.value.args[0].name_hint]
            operands = dict(zip(matmul.operands, binding.value.args[1].fields, strict=True))
            given = tuple((name, number_of[operand]) for name, operand in operands.items() if operand in number_of)
            matmuls.append(ChainedMatmul(matmul, given, binding.var in used))
            arguments += [operands[name] for name in matmuls[-1].arguments]
        key = tuple(matmuls)
        if key not in self.kernels:
            self.kernels[key] = self.builder.add_func(self.make(key, self.rows), self.name)
        returned = [binding.var for binding in run if binding.var in used]
        call = self.builder.normalize(relax.call_tir(self.kernels[key], arguments, [var.ty for var in returned]))
        if len(returned) == 1:
            yield relax.VarBinding(returned[0], call)
            return
        results = relax.DataflowVar("chain", call.ty)
        yield relax.VarBinding(results, call)
        for number, var in enumerate(returned):
            yield relax.VarBinding(var, self.builder.normalize(relax.TupleGetItem(results, number)))

    def _is_matmul(self, binding: relax.Binding) -> bool:
        call = binding.value
        return isinstance(call, relax.Call) and getattr(next(iter(call.args), None), "name_hint", None) in self.kinds
