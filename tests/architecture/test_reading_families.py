"""Which models are read, as what, and what is refused, by their published ``config.json``."""

import pytest

from edge_transact.architecture.families import family_of, translated
from edge_transact.architecture.unsupported import unsupported
from edge_transact.widths import WidthPlan

WINDOWLESS = {"use_sliding_window": False, "sliding_window": 4096, "max_position_embeddings": 131072}
PUBLISHED = {
    "01-ai/Yi-1.5-6B": (
        {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 4},
        {"head_dim": 128, "attention_bias": False},
    ),
    "tiiuae/Falcon3-1B-Instruct": (
        {"model_type": "llama", "hidden_size": 2048, "num_attention_heads": 8, "num_key_value_heads": 4}
        | {"head_dim": 256, "rope_theta": 1000042},
        {"head_dim": 256},
    ),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": (
        {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8}
        | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        {"rope_type": "llama3", "rotates_in_model": False},
    ),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": (
        {"model_type": "qwen2", "hidden_size": 1536, "num_attention_heads": 12, "num_key_value_heads": 2} | WINDOWLESS,
        {"attention_bias": True, "attention_out_bias": False, "tie_word_embeddings": False},
    ),
    "Qwen/Qwen3-0.6B": (
        {"model_type": "qwen3", "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8}
        | {"head_dim": 128, "tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": None},
        {"head_dim": 128, "use_qk_norm": True, "attention_bias": False, "tie_word_embeddings": True},
    ),
    "mistralai/Mistral-7B-Instruct-v0.3": (
        {"model_type": "mistral", "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8}
        | {"sliding_window": None, "max_position_embeddings": 32768},
        {"head_dim": 128, "attention_bias": False},
    ),
    "mistralai/Ministral-8B-Instruct-2410": (
        {"model_type": "mistral", "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8}
        | {"head_dim": 128, "sliding_window": 32768, "max_position_embeddings": 32768},
        {"head_dim": 128},
    ),
    "HuggingFaceTB/SmolLM3-3B": (
        {"model_type": "smollm3", "hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 4}
        | {"use_sliding_window": False, "sliding_window": None, "no_rope_layer_interval": 4},
        {"nope_layers": (3,), "rotates_in_model": True},
    ),
    "microsoft/Phi-3.5-mini-instruct": (
        {"model_type": "phi3", "hidden_size": 3072, "num_attention_heads": 32, "num_key_value_heads": 32}
        | {"sliding_window": 262144, "max_position_embeddings": 131072, "rope_scaling": {"type": "longrope"}},
        {"rope_type": "longrope", "rotary_dim": 96, "rotates_in_model": True},
    ),
    "google/gemma-3-1b-it": (
        {"model_type": "gemma3_text", "hidden_size": 1152, "num_attention_heads": 4, "num_key_value_heads": 1}
        | {"sliding_window": 512, "num_hidden_layers": 7, "query_pre_attn_scalar": 256, "rope_local_base_freq": 10000},
        {"head_dim": 256, "window_size": 512, "window_layers": (0, 1, 2, 3, 4, 6), "local_rope_theta": 10000.0}
        | {"hidden_act": "gelu_pytorch_tanh", "embedding_multiplier": 1152**0.5, "tie_word_embeddings": True},
    ),
    "google/gemma-3-270m, as transformers 5 writes it": (
        {"model_type": "gemma3_text", "hidden_size": 640, "num_attention_heads": 4, "num_key_value_heads": 1}
        | {"sliding_window": 512, "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
        | {
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
                "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
            }
        },
        {"window_layers": (0,), "local_rope_theta": 20000.0, "rope_type": "default", "use_output_norms": True},
    ),
    "microsoft/Phi-4-mini-instruct": (
        {"model_type": "phi3", "hidden_size": 3072, "num_attention_heads": 24, "num_key_value_heads": 8}
        | {"sliding_window": 262144, "max_position_embeddings": 131072, "partial_rotary_factor": 0.75},
        {"head_dim": 128, "rotary_dim": 96},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_that_are_read(name):
    config, expected = PUBLISHED[name]
    config = {"num_hidden_layers": 4, "intermediate_size": 64, "vocab_size": 320} | config
    assert unsupported(config) is None
    plan = WidthPlan.from_config(translated(config))
    assert {field: getattr(plan, field) for field in expected} == expected
    assert family_of(translated(config)).model_type == config["model_type"]


REFUSED = {
    "Qwen/Qwen3-Next-80B-A3B": (
        {"model_type": "qwen3_next", "linear_num_value_heads": 32, "num_experts": 512},
        ("linear attention (Gated DeltaNet)", "a recurrent state beside the KV cache", "Qwen/Qwen3-1.7B"),
    ),
    "Qwen/Qwen3.5-0.8B": (
        {"model_type": "qwen3_5", "text_config": {"linear_num_value_heads": 16}, "vision_config": {"depth": 12}},
        ("linear attention (Gated DeltaNet)", "Qwen/Qwen3-1.7B"),
    ),
    "LiquidAI/LFM2-1.2B": (
        {"model_type": "lfm2", "conv_L_cache": 3, "architectures": ["Lfm2ForCausalLM"]},
        ("Lfm2ForCausalLM (model_type 'lfm2') has short convolutions", "past inputs", "meta-llama/Llama-3.2-1B"),
    ),
    "tiiuae/Falcon-H1-0.5B": (
        {"model_type": "falcon_h1", "mamba_d_ssm": 1536},
        ("state-space layers (Mamba)", "a recurrent state", "tiiuae/Falcon3-1B-Instruct"),
    ),
    "google/gemma-3n-E2B": (
        {"model_type": "gemma3n", "text_config": {"hidden_size_per_layer_input": 256}, "vision_config": {"a": 1}},
        ("per-layer embeddings", "a second embedding", "Qwen/Qwen3-1.7B"),
    ),
    "Qwen/Qwen3-30B-A3B": (
        {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 128},
        ("Qwen3MoeForCausalLM (model_type 'qwen3_moe') is a mixture of experts", "route tokens", "Qwen/Qwen3-4B"),
    ),
    "mistralai/Mixtral-8x7B": ({"model_type": "mixtral", "num_local_experts": 8}, ("mixture of experts",)),
    "Qwen/Qwen2.5-VL-3B": (
        {"model_type": "qwen2_5_vl", "vision_config": {"depth": 32}},
        ("vision or audio tower", "an encoder of images", "text alone"),
    ),
    "google/gemma-3-4b-it": (
        {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}, "vision_config": {"depth": 27}},
        ("a vision tower beside its language model, which is a gemma3_text", "google/gemma-3-1b-it", "language_model"),
    ),
    "google/gemma-2-2b": ({"model_type": "gemma2"}, ("caps of logits", "google/gemma-3-1b-it")),
    "Gemma 3 with caps": (
        {"model_type": "gemma3_text", "final_logit_softcapping": 30.0},
        ("final_logit_softcapping caps logits",),
    ),
    "Gemma 3 as an encoder": (
        {"model_type": "gemma3_text", "use_bidirectional_attention": True},
        ("attention looks ahead",),
    ),
    "a kind of layer too few": (
        {"model_type": "gemma3_text", "num_hidden_layers": 3, "layer_types": ["full_attention", "sliding_attention"]},
        ("layer_types has 2 entries for 3 layers",),
    ),
    "an unknown kind of layer": (
        {"model_type": "gemma3_text", "num_hidden_layers": 1, "layer_types": ["linear_attention"]},
        ("layer_types has 'linear_attention', which is neither full_attention nor sliding_attention",),
    ),
    "a window without sliding layers": (
        {"model_type": "gemma3_text", "sliding_window": 512, "layer_types": ["full_attention"]},
        ("sliding_window is 512, and layer_types has no sliding_attention",),
    ),
    "sliding layers without a window": (
        {"model_type": "gemma3_text", "sliding_window": None, "layer_types": ["sliding_attention"]},
        ("sliding_window is None, and layer_types has sliding_attention",),
    ),
    "scaled RoPE in sliding layers": (
        {"model_type": "gemma3_text", "layer_types": ["sliding_attention"]}
        | {"rope_parameters": {"sliding_attention": {"rope_type": "yarn"}, "full_attention": {"rope_type": "default"}}},
        ("scales RoPE as yarn in layers with a sliding window",),
    ),
    "allenai/OLMo-2-1B": ({"model_type": "olmo2"}, ("norms of the outputs of attention",)),
    "ibm-granite/granite-3.3-2b": (
        {"model_type": "granite", "num_local_experts": 0},
        ("multipliers of embeddings", "Llama-3.2-3B"),
    ),
    "an unknown family": (
        {"model_type": "brandnew"},
        ("unknown (model_type 'brandnew') is none of", "docs/lab/new-family.md", "Qwen/Qwen3-1.7B"),
    ),
    "no family": ({}, ("unknown (model_type None)",)),
    "mistralai/Mistral-7B-v0.1": (
        {"model_type": "mistral", "sliding_window": 4096, "max_position_embeddings": 32768},
        ("a sliding window of 4096 tokens", "a KV cache that forgets", '"sliding_window" to null', "v0.3"),
    ),
    "Mistral as transformers has it by default": ({"model_type": "mistral"}, ("a sliding window of 4096 tokens",)),
    "microsoft/Phi-3-mini-4k-instruct": (
        {"model_type": "phi3", "sliding_window": 2047, "max_position_embeddings": 4096},
        ("a sliding window of 2047 tokens",),
    ),
    "Qwen2 with its window on": (
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4096, "max_position_embeddings": 32768},
        ("a sliding window of 4096 tokens",),
    ),
    **{
        method: (
            {"model_type": "qwen2", "quantization_config": {"quant_method": method}},
            (f"quantized already ({method})", "dequantized first", "that it was made from"),
        )
        for method in ("gptq", "awq", "fp8", "bitsandbytes", "compressed-tensors")
    },
    "MLX's": ({"model_type": "llama", "quantization": {"group_size": 64, "bits": 4}}, ("quantized already (mlx)",)),
    "GELU": ({"model_type": "llama", "hidden_act": "gelu"}, ("'gelu', not 'silu'",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_are_refused(name):
    config, words = REFUSED[name]
    refused = unsupported(config)
    assert refused is not None
    said = " ".join(refused)
    assert not [word for word in words if word not in said], said
