"""Which units are kept, and the smaller tensors."""
