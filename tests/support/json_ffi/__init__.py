"""A stand-in for MLC-LLM's JSON FFI engine: its protocol, and real tokens of a host library."""
