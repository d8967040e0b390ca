"""``config.json``: types and bounds of the fields that are read. `widths` has those of the widths."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, model_validator

Number = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_REQUIRED = {
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "su": ("short_factor", "long_factor"),
}
"""What each way to scale RoPE needs, by ``rope_type``; `su` is an earlier name of longrope."""


class Rope(BaseModel):
    """``rope_parameters``, or ``rope_scaling`` of transformers 4."""

    rope_type: str | None = None
    type: str | None = None
    rope_theta: Number | None = None
    partial_rotary_factor: Number | None = None
    factor: Number | None = None
    low_freq_factor: Number | None = None
    high_freq_factor: Number | None = None
    beta_fast: Number | None = None
    beta_slow: Number | None = None
    attention_factor: Number | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    original_max_position_embeddings: PositiveInt | None = None
    short_factor: list[Number] | None = None
    long_factor: list[Number] | None = None
    full_attention: Rope | None = None
    sliding_attention: Rope | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> Rope:
        kind = self.rope_type or self.type
        if lacking := [name for name in _REQUIRED.get(str(kind), ()) if getattr(self, name) is None]:
            raise ValueError(f"scaling of the type {kind} needs {', '.join(lacking)}")
        return self


class Kind(BaseModel):
    """The fields that tell what a model is, supported or not."""

    model_type: str | None = None
    architectures: list[str] | None = None
    hidden_act: str | None = None
    layer_types: list[str] | None = None
    text_config: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None


class Configuration(BaseModel):
    """The fields of a supported model that aren't widths."""

    max_position_embeddings: Annotated[int, Field(gt=0, lt=1 << 31)] | None = None
    original_max_position_embeddings: PositiveInt | None = None
    rms_norm_eps: Annotated[float, Field(ge=0, lt=1)] | None = None
    rope_theta: Number | None = None
    partial_rotary_factor: Number | None = None
    rope_parameters: Rope | None = None
    rope_scaling: Rope | None = None
    tie_word_embeddings: bool | None = None
    attention_bias: bool | None = None
    attention_out_bias: bool | None = None
    mlp_bias: bool | None = None
    use_qk_norm: bool | None = None
    use_output_norms: bool | None = None
    hidden_activation: str | None = None
    embedding_multiplier: Number | None = None
    query_pre_attn_scalar: Number | None = None
    sliding_window: PositiveInt | None = None
    sliding_window_pattern: PositiveInt | None = None
    max_window_layers: NonNegativeInt | None = None
    rope_local_base_freq: Number | None = None
    window_size: PositiveInt | None = None
    window_layers: list[int | bool] | None = None
    local_rope_theta: Number | None = None
    no_rope_layers: list[int | bool] | None = None
    no_rope_layer_interval: PositiveInt | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[NonNegativeInt] | None = None
    pad_token_id: int | None = None
