"""The table of units: every stage reads it, and it agrees with the widths and with the tensors that are cut."""

import subprocess
import sys

import pytest
import torch

from edge_transact.architecture.matrices import MATRICES
from edge_transact.checkpoint import Checkpoint
from edge_transact.pruning.cut import LayerSelection, pruned_layer, select
from edge_transact.pruning.options import METHODS, find_method
from edge_transact.pruning.scores import LayerScores
from edge_transact.pruning.units import UNITS, Unit
from edge_transact.widths import LayerWidths
from tests.support.patience import HANG_S

LAYER = LayerWidths(9, 3, 8, 8, 40)


def test_the_table_needs_no_torch() -> None:
    """The command line reads the names of units from it."""
    code = "import sys, edge_transact.pruning.units; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=HANG_S).returncode == 0


@pytest.mark.parametrize("unit", UNITS.values(), ids=list(UNITS))
def test_a_narrowed_layer_has_that_width_and_keeps_the_other_module(unit: Unit) -> None:
    width = unit.width(LAYER) - 2
    narrowed = unit.narrowed(LAYER, width)
    assert unit.width(narrowed) == width and unit.count(narrowed) == unit.count(LAYER) - 2 // unit.dims_per_unit
    others = [other for other in UNITS.values() if other.module != unit.module]
    assert [other.width(narrowed) for other in others] == [other.width(LAYER) for other in others]


@pytest.mark.parametrize("unit", UNITS.values(), ids=list(UNITS))
def test_a_unit_is_cut_from_its_rows_and_columns_only(make_llama, unit: Unit) -> None:
    source = Checkpoint.open(make_llama(attention_bias=True, mlp_bias=True))
    (layer, *_) = source.plan.layers
    pairs, dims = torch.rand(3, layer.qk_head_dim // 2), torch.rand(3, layer.v_head_dim)
    scores = LayerScores(torch.rand(layer.num_attention_heads), dims, pairs, torch.rand(layer.intermediate_size))
    everything = pruned_layer(source, 0, LayerSelection.everything(layer))
    narrowed = unit.narrowed(layer, unit.width(layer) - unit.dims_per_unit)
    for name, tensor in pruned_layer(source, 0, select(scores, narrowed)).items():
        projection, _, kind = name.rpartition(".")
        matrix = MATRICES.get(projection)
        fewer_rows = matrix is not None and unit.field in matrix.rows
        fewer_columns = kind == "weight" and matrix is not None and unit.field in matrix.columns
        if name not in everything:
            assert unit.name == "queries-keys" and name == "self_attn.rope_pairs"
        elif kind == "weight" and tensor.dim() == 2:
            shape = everything[name].shape
            assert (tensor.shape[0] < shape[0], tensor.shape[1] < shape[1]) == (fewer_rows, fewer_columns), name
        else:
            assert (len(tensor) < len(everything[name])) == fewer_rows, name


@pytest.mark.parametrize("method", METHODS)
def test_methods_price_units_of_the_table(method: str) -> None:
    assert set(find_method(method).priced_units) <= set(UNITS)
