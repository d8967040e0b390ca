"""The host library: load, prefill, decode, sample, stream text."""
