"""Exports a model: as a GGUF file for llama.cpp and its apps, or as ``nemotron-nas`` for vLLM and mlx-lm."""
