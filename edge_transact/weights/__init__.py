"""Weights in MLC's formats: W4A16 packing (`w4`), shards (`shards`), the streamed conversion (`convert`)."""

from edge_transact.weights.shards import ShardReader, ShardWriter

__all__ = ["ShardReader", "ShardWriter"]
