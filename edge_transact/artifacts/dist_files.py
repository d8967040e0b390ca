"""The names of the files in a DIST that several commands read."""

MANIFEST = "manifest.json"
"""What the DIST is; see `edge_transact.artifacts.manifest`."""

CHAT_CONFIG = "mlc-chat-config.json"
"""MLC-LLM's configuration of a model; see `edge_transact.mlc.chat_config`."""

TUNING = "tuning.json"
"""What phones run the DIST on best; ``bench --tune`` adds it, see `edge_transact.benchmarking.records.tuned`."""

TENSOR_CACHE = "tensor-cache.json"
"""The index of the parameter shards, in TVM's format; see `edge_transact.weights.shards`."""

SHARDS = "params_shard_*.bin"
"""The parameter shards, as a glob."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""The files that a tokenizer can have."""

LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt")
"""The files in which a model's publisher may say its terms, which go along wherever the model goes."""

MODEL_FILES = (TENSOR_CACHE, SHARDS, *TOKENIZER_FILES)
"""What a library and its users read, as globs."""
