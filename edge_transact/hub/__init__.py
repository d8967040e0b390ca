"""The Hugging Face hub: models and data sets from it, checkpoints to it."""
