"""Recovery training: a pruned model learns again what its teacher predicts. `run.heal` is the whole of it."""
