"""Weights as MLC stores them: W4A16 packing (`w4`), shards (`shards`), the streamed conversion (`convert`)."""
