"""Configuration of a LLaMA whose layers differ in width.

This file is self-contained: edge-transact copies it into every checkpoint, next to `modeling_edge_llama.py`. Without
edge-transact it loads from there with ``trust_remote_code=True``.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig

PER_LAYER_FIELDS = ("num_attention_heads", "num_key_value_heads", "qk_head_dim", "v_head_dim", "intermediate_size")

FAMILY_FIELDS = (
    "attention_out_bias", "use_qk_norm", "use_output_norms", "no_rope_layers", "embedding_multiplier",
    "query_pre_attn_scalar", "window_size", "window_layers", "local_rope_theta", "source_model_type",
)  # fmt: skip
"""What families other than LLaMA need; left out where it is null."""


@strict
class EdgeLlamaConfig(LlamaConfig):
    """A `LlamaConfig` with transformers' sparse `per_layer_config`.

    Each global width is the largest of any layer. ``per_layer_config`` maps a layer's index to the fields of
    `PER_LAYER_FIELDS` in which that layer is narrower. A layer with no heads has no attention, one with an
    ``intermediate_size`` of 0 no MLP; neither has the norm before it. `head_dim` is the head dim before pruning, the
    same for all layers and independent of ``hidden_size / num_attention_heads``. It sets the softmax scale and the RoPE
    frequencies.

    Args:
        qk_head_dim: Dims of a query or key head; even, at most `head_dim`, which is the default.
        v_head_dim: Dims of a value head; `head_dim` by default.
        attention_out_bias: Whether attention's output projection has a bias; `attention_bias` by default.
        use_qk_norm: Whether an RMSNorm follows the projections of every query and key head, before RoPE.
        use_output_norms: Whether an RMSNorm follows attention, and one the MLP, before their outputs are added.
        no_rope_layers: For each layer, 1 if it has RoPE or 0; by default, all layers have it.
        embedding_multiplier: The factor of the embedding's rows where they become hidden states; 1 by default.
        query_pre_attn_scalar: The number whose inverse square root is the softmax scale; `head_dim` by default.
        window_size: How many tokens, itself included, a token attends to in layers with a sliding window.
        window_layers: For each layer, 1 if it has that window or 0; by default, none has.
        local_rope_theta: The base of plain RoPE in layers with the window; by default, they have that of the others.
        source_model_type: The `model_type` of the model that was pruned, if it isn't a LLaMA.
    """

    model_type = "edge_llama"
    _auto_class = "AutoConfig"

    qk_head_dim: int | None = None
    v_head_dim: int | None = None
    attention_out_bias: bool | None = None
    use_qk_norm: bool | None = None
    use_output_norms: bool | None = None
    no_rope_layers: list[int] | None = None
    embedding_multiplier: float | int | None = None
    query_pre_attn_scalar: float | int | None = None
    window_size: int | None = None
    window_layers: list[int] | None = None
    local_rope_theta: float | int | None = None
    source_model_type: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # Never None: transformers takes a `qk_head_dim` as a sign that a layer's keys and values differ in size.
        head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        self.qk_head_dim = self.qk_head_dim or head_dim
        self.v_head_dim = self.v_head_dim or head_dim
        if self.attention_out_bias == self.attention_bias:
            self.attention_out_bias = None
        self.use_qk_norm = self.use_qk_norm or None
        self.use_output_norms = self.use_output_norms or None
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Replaces LlamaConfig's rule that the heads divide the hidden size, which doesn't hold after pruning.

        Raises:
            ValueError: A per-layer field isn't one of `PER_LAYER_FIELDS`, a width is below what it may be, the query
                heads are not a multiple of the KV heads, or a `qk_head_dim` is odd, above `head_dim`, or below it with
                `use_qk_norm`. The message names the layer. Or no layer has heads or MLP dims, or `no_rope_layers` or
                `window_layers` lacks layers.
        """
        unknown = sorted((self.per_layer_attributes or set()) - set(PER_LAYER_FIELDS))
        if unknown:
            raise ValueError(f"per_layer_config: unknown {unknown[0]!r}; the fields are {', '.join(PER_LAYER_FIELDS)}")
        for name in ("no_rope_layers", "window_layers"):
            if (of_layers := getattr(self, name)) is not None and len(of_layers) < self.num_hidden_layers:
                raise ValueError(f"{name} has {len(of_layers)} of {self.num_hidden_layers} layers")
        for field in ("num_attention_heads", "intermediate_size"):
            if not any(getattr(layer, field) for layer in self.per_layer_config):
                raise ValueError(f"{field} is 0 in all layers")
        for index, layer in enumerate(self.per_layer_config):
            has_heads = layer.num_attention_heads != 0 or layer.num_key_value_heads != 0
            for field in PER_LAYER_FIELDS:
                least = 0 if field == "intermediate_size" or not has_heads else 1
                if getattr(layer, field) < least:
                    raise ValueError(f"layer {index}: {field} is {getattr(layer, field)}, not at least {least}")
            if has_heads and layer.num_attention_heads % layer.num_key_value_heads:
                raise ValueError(
                    f"layer {index}: num_attention_heads {layer.num_attention_heads} is not a multiple of "
                    f"num_key_value_heads {layer.num_key_value_heads}"
                )
            if layer.qk_head_dim % 2 or layer.qk_head_dim > layer.head_dim:
                raise ValueError(
                    f"layer {index}: qk_head_dim {layer.qk_head_dim} is odd, or more than head_dim {layer.head_dim}"
                )
            if self.use_qk_norm and layer.qk_head_dim != layer.head_dim:
                raise ValueError(
                    f"layer {index}: qk_head_dim {layer.qk_head_dim} is not head_dim {layer.head_dim}, over which "
                    "use_qk_norm normalizes"
                )

    def validate_rope(self) -> None:
        """LlamaConfig's, on a layer: longrope's rules read `num_attention_heads`, in which layers may differ."""
        LlamaConfig.validate_rope(self.with_heads)

    @property
    def with_heads(self) -> "EdgeLlamaConfig":
        """The configuration of the first layer that has attention."""
        return next(layer for layer in self.per_layer_config if layer.num_attention_heads)

    def to_dict(self) -> dict[str, Any]:
        """LlamaConfig's, with the keys that readers other than transformers 5 know (see `_for_other_readers`)."""
        return _for_other_readers(super().to_dict())

    def to_diff_dict(self) -> dict[str, Any]:
        """LlamaConfig's, with the keys that readers other than transformers 5 know (see `_for_other_readers`)."""
        return _for_other_readers(super().to_diff_dict())


def _for_other_readers(config: dict[str, Any]) -> dict[str, Any]:
    # MLC-LLM reads `rope_theta`, 10000 by default, and `rope_scaling`.
    rope = config["rope_parameters"]
    config["rope_theta"] = rope["rope_theta"]
    if rope["rope_type"] in ("llama3", "yarn", "longrope"):
        config["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    # Other readers only know `head_dim`: the other two are written only where they differ from it. transformers needs
    # them to read a `per_layer_config` that has them, also where it doesn't know `EdgeLlamaConfig`.
    by_layer = (config.get("per_layer_config") or {}).values()
    for key in ("qk_head_dim", "v_head_dim"):
        if config.get(key) == config["head_dim"] and not any(key in layer for layer in by_layer):
            del config[key]
    for key in ("per_layer_config", *FAMILY_FIELDS):
        if config.get(key, True) in (None, {}):
            del config[key]
    return config
