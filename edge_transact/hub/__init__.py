"""The Hugging Face hub: downloads of models and data sets, uploads of checkpoints, and files out of wheels."""
