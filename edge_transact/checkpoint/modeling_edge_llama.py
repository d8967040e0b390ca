"""A LLaMA whose layers differ in width: stock LLaMA decoder layers, each built from its own layer's configuration.

Self-contained: this file is copied into every checkpoint that edge-transact writes, beside
`configuration_edge_llama.py`. With equal widths the model is stock LLaMA, operation by operation.
"""

from torch import nn
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaModel,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from .configuration_edge_llama import EdgeLlamaConfig


class EdgeLlamaModel(LlamaModel):
    """`LlamaModel` whose layer i has the widths of ``config.per_layer_config[i]``; the hidden size is one for all."""

    config: EdgeLlamaConfig
    config_class = EdgeLlamaConfig

    def __init__(self, config: EdgeLlamaConfig) -> None:
        # Not LlamaModel's own __init__, which would build every layer from the global widths.
        LlamaPreTrainedModel.__init__(self, config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        layers = []
        for index, layer_config in enumerate(config.per_layer_config):
            layer = LlamaDecoderLayer(layer_config, index)  # type: ignore[arg-type]
            # `layer_config` is a copy, which `set_attn_implementation` wouldn't reach.
            layer.self_attn.config = layer.mlp.config = config
            layers.append(layer)
        self.layers = nn.ModuleList(layers)
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()


class EdgeLlamaForCausalLM(LlamaForCausalLM):
    """`LlamaForCausalLM` over an `EdgeLlamaModel`."""

    config: EdgeLlamaConfig
    config_class = EdgeLlamaConfig
    _auto_class = "AutoModelForCausalLM"

    def __init__(self, config: EdgeLlamaConfig) -> None:
        LlamaPreTrainedModel.__init__(self, config)
        self.model = EdgeLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
