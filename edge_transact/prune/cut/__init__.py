"""Which units stay, and the smaller tensors."""
