"""A model for other runtimes: as a GGUF file for llama.cpp and its apps."""
