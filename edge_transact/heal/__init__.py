"""Recovery training: a pruned model learns again what its teacher predicts.

- `options`: what can be chosen: the text, how much of it, what is learned from, and how large a step is.
- `text`: training text as sequences of tokens in an endless, fixed order, and a held-out part.
- `lean`: a transformers LLaMA whose backward pass keeps and computes less.
- `losses`: the loss over the vocabulary with its gradients, some tokens at a time.
- `teacher`: the dense parent, and what it predicts: computed as it is needed, or kept on disk.
- `student`: the model that is trained: loaded, with LoRA if that is wanted, and its tensors to write.
- `processes`: one process or several, through accelerate.
- `snapshots`: the state of a training on disk, so that it goes on where it was stopped.
- `measures`: what is written of a training while it runs: losses, speed, ``metrics.jsonl``, TensorBoard.
- `grid`: rounding inside: the 4-bit grid that training goes through.
- `schedule`: the steps: how many, how large, at which learning rates.
- `train`: the training itself, of any student.
- `run`: `heal` from end to end: a pruned checkpoint in, a healed one out.
- `requirements`: a training's steps, memory and disk.
- `report`: the page with the loss curve.
"""
