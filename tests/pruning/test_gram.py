"""A symmetric sum of which only half is computed."""

import pytest
import torch

from edge_transact.layerwise.gram import BLOCK, Gram


@pytest.mark.parametrize("size", [1, 40, BLOCK, BLOCK + 1, 3 * BLOCK - 5])
def test_it_is_the_sum_of_products(size: int) -> None:
    rows = torch.randn(50, size, generator=torch.Generator().manual_seed(size))
    gram = Gram(size, rows.device)
    for batch in rows.split(20):
        gram.add(batch)
        gram.whole()  # doesn't change the sum
    torch.testing.assert_close(gram.whole(), rows.T @ rows)
