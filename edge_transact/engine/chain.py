"""Joins products that follow each other into one kernel, which takes the threads from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from tvm import IRModule, relax, tirx

from edge_transact.engine.product import Linear, Link

MakeChain = Callable[[tuple[Link, ...]], tirx.PrimFunc]


def chain_products(mod: IRModule, kinds: Mapping[str, Linear], make: MakeChain) -> IRModule:
    """Each run of products with nothing between them becomes one call.

    In a LLaMA, that is all between the attention of a layer and that of the next.

    Args:
        mod: In which kernels are called as `relax.call_tir`.
        kinds: The kernels of products, by name.
        make: A chain's kernel: of the arguments of all links, and then all results.
    """
    kernels: dict[tuple[Link, ...], relax.GlobalVar] = {}
    builder = relax.BlockBuilder(mod)

    def joined(run: Sequence[relax.Binding]) -> Iterator[relax.Binding]:
        if len(run) < 2:
            yield from run
            return
        links, arguments = [], []
        for binding in run:
            linear = kinds[binding.value.args[0].name_hint]
            operands = dict(zip(linear.operands, binding.value.args[1].fields, strict=True))
            results = {earlier.var: number for number, earlier in enumerate(run)}
            given = {name: results[operand] for name, operand in operands.items() if operand in results}
            links.append(Link(linear, tuple(given.items())))
            arguments += [operands[name] for name in links[-1].arguments]
        key = tuple(links)
        if key not in kernels:
            kernels[key] = builder.add_func(make(key), "w4_chain")
        call = builder.normalize(relax.call_tir(kernels[key], arguments, [binding.var.ty for binding in run]))
        results_of_all = relax.DataflowVar("chain", call.ty)
        yield relax.VarBinding(results_of_all, call)
        for number, binding in enumerate(run):
            yield relax.VarBinding(binding.var, builder.normalize(relax.TupleGetItem(results_of_all, number)))

    def rewritten(block: relax.BindingBlock) -> relax.BindingBlock:
        if not isinstance(block, relax.DataflowBlock):
            return block
        bindings: list[relax.Binding] = []
        run: list[relax.Binding] = []
        for binding in block.bindings:
            if _is_product(binding.value, kinds):
                run.append(binding)
                continue
            bindings += [*joined(run), binding]
            run = []
        return relax.DataflowBlock([*bindings, *joined(run)])

    for var, function in mod.functions_items():
        if isinstance(function, relax.Function) and isinstance(function.body, relax.SeqExpr):
            body = relax.SeqExpr([rewritten(block) for block in function.body.blocks], function.body.body)
            builder.update_func(
                var, relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)
            )
    return builder.get()


def _is_product(value: relax.Expr, kinds: Mapping[str, Linear]) -> bool:
    return isinstance(value, relax.Call) and bool(value.args) and getattr(value.args[0], "name_hint", None) in kinds
