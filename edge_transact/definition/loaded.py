"""A loaded definition: the emitted module and a configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from tvm.relax.frontend import nn


class DefinitionConfig(Protocol):
    """The part of the emitted module's ``EdgeLlamaConfig`` that we use."""

    hidden_size: int
    vocab_size: int
    num_hidden_layers: int
    per_layer_config: dict[str, dict[str, int]]
    context_window_size: int
    prefill_chunk_size: int
    max_batch_size: int

    def asdict(self) -> dict[str, object]:
        """The configuration as JSON values."""


@dataclass(frozen=True)
class Definition:
    """The executed ``edge_llama_model.py``, and its ``EdgeLlamaConfig``."""

    module: ModuleType
    config: DefinitionConfig

    def model(self) -> nn.Module:
        """A new, unquantized model in float32."""
        return self.module.EdgeLlamaForCausalLM(self.config)

    def parameter_sources(self) -> dict[str, tuple[Sequence[str], Callable[..., np.ndarray]]]:
        """Parameter name to the checkpoint's tensors and the function that joins them, in the model's order."""
        return self.module.parameter_sources(self.config)

    def truncated(self, num_hidden_layers: int) -> Definition:
        kept = {i: widths for i, widths in self.config.per_layer_config.items() if int(i) < num_hidden_layers}
        config = {**self.config.asdict(), "num_hidden_layers": num_hidden_layers, "per_layer_config": kept}
        return replace(self, config=self.module.EdgeLlamaConfig.from_dict(config))
