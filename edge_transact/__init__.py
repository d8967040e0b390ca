"""edge-transact: a LLaMA checkpoint to a phone in one command."""
