"""Configuration of a LLaMA whose layers differ in width.

Self-contained: this file is copied into every checkpoint that edge-transact writes, beside `modeling_edge_llama.py`,
and loads from there with ``trust_remote_code=True`` where edge-transact isn't installed.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig

PER_LAYER_FIELDS = ("num_attention_heads", "num_key_value_heads", "qk_head_dim", "v_head_dim", "intermediate_size")


@strict
class EdgeLlamaConfig(LlamaConfig):
    """A `LlamaConfig` with transformers' sparse `per_layer_config`.

    The global widths are those of the widest layer, field by field; ``per_layer_config`` maps a layer's index to the
    fields of `PER_LAYER_FIELDS` in which that layer is narrower. `head_dim` is the heads' before pruning, one for all
    layers and independent of ``hidden_size / num_attention_heads``: it sets the softmax scale and the RoPE frequencies.

    Args:
        qk_head_dim: Dims of a query or key head, even, at most `head_dim`, which it is by default.
        v_head_dim: Dims of a value head, by default `head_dim`.
    """

    model_type = "edge_llama"
    _auto_class = "AutoConfig"

    qk_head_dim: int | None = None
    v_head_dim: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # Never None: transformers takes a layer's `qk_head_dim` as the sign that its keys and values differ in size.
        head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        self.qk_head_dim = self.qk_head_dim or head_dim
        self.v_head_dim = self.v_head_dim or head_dim
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Replaces LlamaConfig's rule that heads divide the hidden size, which pruned heads don't.

        Raises:
            ValueError: A per-layer field that isn't one of `PER_LAYER_FIELDS`, a width below 1, query heads that are
                not a multiple of the KV heads, or a `qk_head_dim` that is odd or above `head_dim`; named by layer.
        """
        unknown = sorted((self.per_layer_attributes or set()) - set(PER_LAYER_FIELDS))
        if unknown:
            raise ValueError(f"per_layer_config: unknown {unknown[0]!r}; the fields are {', '.join(PER_LAYER_FIELDS)}")
        for index, layer in enumerate(self.per_layer_config):
            for field in PER_LAYER_FIELDS:
                if getattr(layer, field) < 1:
                    raise ValueError(f"layer {index}: {field} is {getattr(layer, field)}, not at least 1")
            if layer.num_attention_heads % layer.num_key_value_heads:
                raise ValueError(
                    f"layer {index}: num_attention_heads {layer.num_attention_heads} is not a multiple of "
                    f"num_key_value_heads {layer.num_key_value_heads}"
                )
            if layer.qk_head_dim % 2 or layer.qk_head_dim > layer.head_dim:
                raise ValueError(
                    f"layer {index}: qk_head_dim {layer.qk_head_dim} is odd, or more than head_dim {layer.head_dim}"
                )

    def to_dict(self) -> dict[str, Any]:
        """As in LlamaConfig, in the keys that readers other than transformers 5 know (see `_for_other_readers`)."""
        return _for_other_readers(super().to_dict())

    def to_diff_dict(self) -> dict[str, Any]:
        """As in LlamaConfig, in the keys that readers other than transformers 5 know (see `_for_other_readers`)."""
        return _for_other_readers(super().to_diff_dict())


def _for_other_readers(config: dict[str, Any]) -> dict[str, Any]:
    # MLC-LLM reads `rope_theta` (10000 when absent) and `rope_scaling`, and takes no scaling but llama3's, by
    # `rope_type`.
    rope = config["rope_parameters"]
    config["rope_theta"] = rope["rope_theta"]
    if rope["rope_type"] == "llama3":
        config["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    # Head dims of their own are written where there are any: other readers know `head_dim` alone.
    for key in ("qk_head_dim", "v_head_dim"):
        if config.get(key) == config["head_dim"]:
            del config[key]
    if not config.get("per_layer_config", True):
        del config["per_layer_config"]
    return config
