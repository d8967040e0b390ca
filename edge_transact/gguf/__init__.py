"""The GGUF format: where a checkpoint's tensors are in it (`layout`), and Q4_0's blocks as MLC's codes (`q4_0`)."""
