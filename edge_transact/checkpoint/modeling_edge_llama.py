"""A LLaMA whose layers differ in width: stock LLaMA decoder layers, each built from its own configuration.

This file is self-contained: edge-transact copies it into every checkpoint, next to `configuration_edge_llama.py`. With
a uniform plan the model is stock LLaMA, operation by operation. Only attention whose heads lost dims differs, and
layers that lack attention or the MLP.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel, initialization
from transformers.modeling_layers import (
    GenericForQuestionAnswering,
    GenericForSequenceClassification,
    GenericForTokenClassification,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaMLP,
    LlamaModel,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    eager_attention_forward,
    rotate_half,
)
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from .configuration_edge_llama import EdgeLlamaConfig


class EdgeLlamaRotaryEmbedding(Phi3RotaryEmbedding):
    """LLaMA's cosines and sines of all dims of a head. With a `partial_rotary_factor`, the last pairs don't rotate."""

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Cosines and sines at positions ``[batch, n]``, each ``[batch, n, head_dim]`` with the dtype of `x`.

        With a `local_rope_theta`, those of layers with a sliding window follow.
        """
        cos, sin = super().forward(x, position_ids)
        if still := (self.config.head_dim - cos.shape[-1]) // 2:
            cos, sin = (
                functional.pad(angles.chunk(2, dim=-1)[0], (0, still), value=value).repeat(1, 1, 2)
                for angles, value in ((cos, 1.0), (sin, 0.0))
            )
        if not self.config.local_rope_theta:
            return cos, sin
        dims = torch.arange(0, self.config.head_dim, 2, dtype=torch.float32, device=x.device) / self.config.head_dim
        angles = position_ids[..., None].float() / self.config.local_rope_theta**dims
        angles = torch.cat((angles, angles), dim=-1)
        return cos, sin, angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class EdgeLlamaAttention(LlamaAttention):
    """`LlamaAttention` whose heads lost dims of q and k or of v. It computes what zeros in these dims would give.

    It also has what other families than LLaMA have: a norm of every query and key head, a bias of q, k and v alone,
    layers without RoPE, and layers with a sliding window, whose RoPE may have a base of its own.

    RoPE rotates the pairs ``(i, i + head_dim / 2)`` of a head. The buffer `rope_pairs`, int32
    ``[num_key_value_heads, qk_head_dim / 2]``, lists the pairs that each KV head kept; they keep their frequencies.
    Their dims are half-split again: the first dims of all pairs, then the second ones. Layers with all pairs have no
    such buffer. The softmax scale is that of the original `head_dim`.
    """

    rope_pairs: torch.Tensor | None

    def __init__(self, config: Any, layer_idx: int) -> None:
        # Not LlamaAttention's __init__, which gives q, k and v the same head dim.
        nn.Module.__init__(self)
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.config = config
        self.layer_idx = layer_idx
        self.has_rope = has_rope(config, layer_idx)
        self.qk_head_dim, self.v_head_dim = config.qk_head_dim, config.v_head_dim
        self.num_key_value_groups = heads // kv_heads
        self.scaling = (config.query_pre_attn_scalar or config.head_dim) ** -0.5
        self.window_size: int = config.window_size if has_window(config, layer_idx) else 0
        self.attention_dropout = config.attention_dropout
        self.is_causal = True
        hidden, bias, out_bias = config.hidden_size, config.attention_bias, config.attention_out_bias
        self.q_proj = nn.Linear(hidden, heads * self.qk_head_dim, bias=bias)
        self.k_proj = nn.Linear(hidden, kv_heads * self.qk_head_dim, bias=bias)
        self.v_proj = nn.Linear(hidden, kv_heads * self.v_head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * self.v_head_dim, hidden, bias=bias if out_bias is None else out_bias)
        if config.use_qk_norm:
            self.q_norm = LlamaRMSNorm(self.qk_head_dim, eps=config.rms_norm_eps)
            self.k_norm = LlamaRMSNorm(self.qk_head_dim, eps=config.rms_norm_eps)
        pairs = None
        if self.qk_head_dim < config.head_dim:
            pairs = torch.arange(self.qk_head_dim // 2, dtype=torch.int32).repeat(kv_heads, 1)
        self.register_buffer("rope_pairs", pairs)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, ...],
        attention_mask: torch.Tensor | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Like `LlamaAttention.forward`; `position_embeddings` are ``[batch, n, head_dim]``, with the original dims."""
        cache = kwargs.pop("past_key_values", cache)  # its name before transformers 5.16
        shape = hidden_states.shape[:-1]
        query = self.q_proj(hidden_states).view(*shape, -1, self.qk_head_dim)
        key = self.k_proj(hidden_states).view(*shape, -1, self.qk_head_dim)
        if self.config.use_qk_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = query.transpose(1, 2), key.transpose(1, 2)
        value = self.v_proj(hidden_states).view(*shape, -1, self.v_head_dim).transpose(1, 2)

        if self.has_rope:
            own = position_embeddings[-2:] if self.window_size else position_embeddings[:2]
            cos, sin = (self._of_heads(angles) for angles in own)
            query = query * cos + rotate_half(query) * sin
            # The query heads of a KV group have the angles of its KV head. With all pairs there is one set of angles.
            first = slice(None, None, self.num_key_value_groups)
            key = key * cos[:, first] + rotate_half(key) * sin[:, first]
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)

        if self.window_size:
            attention_mask = self._windowed(attention_mask, query, key)
            kwargs["sliding_window"] = self.window_size
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(output.reshape(*shape, -1)), weights

    def _windowed(self, mask: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor | None:
        """The mask without the keys before the window; attention functions of other names read `sliding_window`.

        The cache has all keys, so that layers with and without a window share its length.

        Raises:
            ValueError: The attention function takes masks of another kind.
        """
        name, queries, keys = self.config._attn_implementation, query.shape[2], key.shape[2]
        if name == "flex_attention" or name.startswith("paged"):
            raise ValueError(f"{name} has no sliding windows here: set attn_implementation to sdpa or eager")
        if name not in ("sdpa", "eager") or keys <= self.window_size:
            return mask
        slots = torch.arange(keys, device=key.device)
        if mask is None:
            # Several queries are the first tokens of a cache that may have room for more; one sees all of it.
            last = slots[:queries, None] if queries > 1 else slots[-1:, None]
            return ((slots <= last) & (slots > last - self.window_size))[None, None]
        # A query sees itself last. In a static cache, keys that are not there yet follow.
        visible = mask if mask.dtype == torch.bool else mask == 0
        near = slots > (visible * slots).amax(dim=-1, keepdim=True) - self.window_size
        return mask & near if mask.dtype == torch.bool else mask.masked_fill(~near, torch.finfo(mask.dtype).min)

    def _of_heads(self, angles: torch.Tensor) -> torch.Tensor:
        """Selects cosines or sines ``[batch, n, head_dim]`` by query head: ``[batch, heads or 1, n, qk_head_dim]``."""
        if self.rope_pairs is None:
            return angles[:, None]
        # Both dims of a pair rotate by one angle, which is in the first half of `angles`.
        of_kv_heads = angles[..., self.rope_pairs.repeat(1, 2).long()].transpose(1, 2)
        return of_kv_heads.repeat_interleave(self.num_key_value_groups, dim=1)


def has_rope(config: Any, index: int) -> bool:
    return config.no_rope_layers is None or bool(config.no_rope_layers[index])


def has_window(config: Any, index: int) -> bool:
    return config.window_layers is not None and bool(config.window_layers[index])


class EdgeLlamaEmbedding(nn.Embedding):
    """`nn.Embedding` whose rows are multiplied by a number where they become hidden states."""

    def __init__(self, *args: Any, multiplier: float) -> None:
        super().__init__(*args)
        self.multiplier = multiplier

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids) * torch.tensor(self.multiplier, dtype=self.weight.dtype)


class EdgeLlamaDecoderLayer(LlamaDecoderLayer):
    """`LlamaDecoderLayer` without attention, without an MLP, or the identity; without the norms of what it lacks.

    With `use_output_norms`, what attention and the MLP add is normed, too.
    """

    def __init__(self, config: Any, layer_idx: int) -> None:
        # Not LlamaDecoderLayer's __init__, which makes both.
        nn.Module.__init__(self)
        self.hidden_size = config.hidden_size
        norms = []
        if config.num_attention_heads:
            self.self_attn = attention_of(config, layer_idx)
            norms += ["input_layernorm", *["post_self_attn_layernorm"] * bool(config.use_output_norms)]
        if config.intermediate_size:
            self.mlp = LlamaMLP(config)
            norms += ["post_attention_layernorm", *["post_mlp_layernorm"] * bool(config.use_output_norms)]
        for name in norms:
            self.add_module(name, LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps))

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if hasattr(self, "self_attn"):
            output = self.self_attn(self.input_layernorm(hidden_states), *args, **kwargs)[0]
            hidden_states = hidden_states + self._normed("post_self_attn_layernorm", output)
        if hasattr(self, "mlp"):
            output = self.mlp(self.post_attention_layernorm(hidden_states))
            hidden_states = hidden_states + self._normed("post_mlp_layernorm", output)
        return hidden_states

    def _normed(self, norm: str, output: torch.Tensor) -> torch.Tensor:
        return self.get_submodule(norm)(output) if hasattr(self, norm) else output


def attention_of(config: Any, index: int) -> LlamaAttention:
    """The attention of a layer; stock if LLaMA has such attention."""
    has_own_dims = (config.qk_head_dim, config.v_head_dim) != (config.head_dim, config.head_dim)
    other = (config.use_qk_norm, config.attention_out_bias, config.query_pre_attn_scalar, config.local_rope_theta)
    is_llama = has_rope(config, index) and not has_window(config, index) and other == (None,) * len(other)
    return LlamaAttention(config, index) if is_llama and not has_own_dims else EdgeLlamaAttention(config, index)


def decoder_layer(config: Any, index: int) -> LlamaDecoderLayer:
    """A layer with the widths of `config`, from `EdgeLlamaConfig.per_layer_config`; stock if LLaMA has such a layer."""
    if not config.num_attention_heads or not config.intermediate_size or config.use_output_norms:
        return EdgeLlamaDecoderLayer(config, index)
    layer = LlamaDecoderLayer(config, index)
    layer.self_attn = attention_of(config, index)
    return layer


class EdgeLlamaPreTrainedModel(LlamaPreTrainedModel):
    """`LlamaPreTrainedModel` that also initializes `rope_pairs`: in a new model, to the first pairs of every head."""

    config: EdgeLlamaConfig
    config_class = EdgeLlamaConfig
    _no_split_modules = ["LlamaDecoderLayer", "EdgeLlamaDecoderLayer"]  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, EdgeLlamaAttention) and module.rope_pairs is not None:
            first = torch.arange(module.rope_pairs.shape[1], device=module.rope_pairs.device)
            initialization.copy_(module.rope_pairs, first.expand_as(module.rope_pairs))


class EdgeLlamaModel(EdgeLlamaPreTrainedModel, LlamaModel):
    """`LlamaModel` whose layer i has the widths of ``config.per_layer_config[i]``.

    Layers without attention have no layer of the KV cache and none of ``output_attentions``: transformers reads the
    length of the cache in its first layer, which is that of the first attention.
    """

    _auto_class = "AutoModel"

    def __init__(self, config: EdgeLlamaConfig) -> None:
        # Not LlamaModel's __init__, which builds every layer from the global widths.
        LlamaPreTrainedModel.__init__(self, config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        if config.embedding_multiplier:
            sizes = config.vocab_size, config.hidden_size, self.padding_idx
            self.embed_tokens = EdgeLlamaEmbedding(*sizes, multiplier=config.embedding_multiplier)
        self.layers = nn.ModuleList(
            decoder_layer(layer_config, index) for index, layer_config in enumerate(config.per_layer_config)
        )
        attentions: list[Any] = [module for module in self.layers.modules() if isinstance(module, LlamaAttention)]
        for index, attention in enumerate(attentions):
            attention.layer_idx = index
        for module in (*attentions, *(each for each in self.layers.modules() if isinstance(each, LlamaMLP))):
            # `set_attn_implementation` doesn't reach the layer's configuration, which is a copy.
            module.config = config
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        # That of a layer with heads: all have one `head_dim`, and yarn, dynamic and longrope also read
        # `num_attention_heads`, which the model's own configuration doesn't tell where layers differ in it.
        self.rotary_emb = EdgeLlamaRotaryEmbedding(config=config.with_heads)
        self.gradient_checkpointing = False
        self.post_init()


# The classes with other heads than a language model's make their `model` by this. Without edge-transact, nothing else
# registers it.
AutoModel.register(EdgeLlamaConfig, EdgeLlamaModel, exist_ok=True)


class EdgeLlamaForCausalLM(EdgeLlamaPreTrainedModel, LlamaForCausalLM):
    """`LlamaForCausalLM` with an `EdgeLlamaModel`."""

    _auto_class = "AutoModelForCausalLM"

    def __init__(self, config: EdgeLlamaConfig) -> None:
        LlamaPreTrainedModel.__init__(self, config)
        self.model = EdgeLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """`GenerationMixin`'s, which `generate_batch` calls, for models whose heads are alike in all layers.

        Raises:
            ValueError: Heads were cut from some layers, or dims from heads. transformers' paged KV cache has one number
                of KV heads and one head dim.
        """
        layers = self.config.per_layer_config
        head_dims = {dim for layer in layers for dim in (layer.qk_head_dim, layer.v_head_dim)}
        if len({layer.num_key_value_heads for layer in layers}) > 1 or head_dims != {self.config.head_dim}:
            raise ValueError(
                "generate_batch and continuous batching need layers with the same number of KV heads, and heads with "
                f"all of their {self.config.head_dim} dims, for transformers' paged KV cache. Pruning cut some from "
                "this model: use generate with a padded batch."
            )
        return super().init_continuous_batching(*args, **kwargs)


class EdgeLlamaForSequenceClassification(GenericForSequenceClassification, EdgeLlamaPreTrainedModel):
    """`LlamaForSequenceClassification` with an `EdgeLlamaModel`."""

    _auto_class = "AutoModelForSequenceClassification"


class EdgeLlamaForQuestionAnswering(GenericForQuestionAnswering, EdgeLlamaPreTrainedModel):
    """`LlamaForQuestionAnswering` with an `EdgeLlamaModel`."""

    _auto_class = "AutoModelForQuestionAnswering"


class EdgeLlamaForTokenClassification(GenericForTokenClassification, EdgeLlamaPreTrainedModel):
    """`LlamaForTokenClassification` with an `EdgeLlamaModel`."""

    _auto_class = "AutoModelForTokenClassification"
