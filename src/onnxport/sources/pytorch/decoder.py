"""A decoder as a source: its cache is inputs and outputs, so that one graph does prefill, chunks and steps."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from onnxport.sources.pytorch.model_state import state_kept
from onnxport.sources.pytorch.source import TorchSource
from onnxport.sources.states import State, build_cache, find_states, read_cache
from onnxport.tensor_names import is_past

if TYPE_CHECKING:
    import torch

    from onnxport.sources.base import Arrays

# What transformers' models call the parameter, and the field of the result.
_CACHE_NAMES = ("past_key_values", "cache_params")


class DecoderSource(TorchSource):
    """A causal language model.

    Its inputs are those of the model, with a tensor `past_...` for each state in place of the cache;
    its outputs are the wanted ones and a tensor `present...` for each state.

    Attributes:
        states: what its cache holds.
        first_token: what the answer of an encoder-decoder begins with; None for a decoder alone.
        image_token: stands for a row of image features in a prompt; None where no image is in the text.
        settings: what the model's own code says about generating, by the names of generation_config.json.
    """

    first_token: int | None = None
    image_token: int | None = None
    settings: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, model: torch.nn.Module, outputs: tuple[str, ...] = (), architecture: str | None = None) -> None:
        super().__init__(model, outputs, architecture)
        parameters = inspect.signature(model.forward).parameters
        self._cache_name = next((name for name in _CACHE_NAMES if name in parameters), _CACHE_NAMES[0])
        self.states: tuple[State, ...] = self._find_states()
        self.outputs = (*outputs, *(state.present for state in self.states))

    def invoke(self, forward: Callable[..., Any], tensors: Mapping[str, torch.Tensor]) -> Any:
        """One call of the model over the states in `tensors`."""
        past = {state.past for state in self.states}
        cache = build_cache(self.states, tensors)
        given = {name: tensor for name, tensor in tensors.items() if name not in past}
        result = forward(**given, **{self._cache_name: cache}, use_cache=True)
        kept = {name: result[name] for name in self.outputs if name in result}
        return {**kept, **read_cache(self.states, result[self._cache_name])}

    def generate(self, prompt: Arrays, steps: int) -> tuple[Any, Any, float]:
        """Greedy tokens by transformers' `generate`, past any end of text.

        Args:
            prompt: `input_ids` and `attention_mask`, (rows, tokens), padded on the left.

        Returns:
            tokens (rows, steps) int64; by how much the best logit leads the second (rows, steps);
            the largest |logit|.
        """
        import torch

        result = self._generated(prompt, steps)
        best = torch.stack([step.float().topk(2).values for step in result.logits], 1)
        scale = max(float(step.abs().max()) for step in result.logits)
        return result.sequences[:, -steps:].numpy(), (best[..., 0] - best[..., 1]).numpy(), scale

    def first_logits(self, prompt: Arrays) -> Any:
        """The logits with which `generate` begins, (rows, vocabulary) float32."""
        return self._generated(prompt, 1).logits[0].float().numpy()

    def _generated(self, prompt: Arrays, steps: int) -> Any:
        import torch
        from transformers import GenerationMixin

        settings = self.greedy_settings(steps)
        model: Any = self.model
        own, model.generation_config = model.generation_config, settings
        try:
            with state_kept(model), torch.no_grad(), self.weights_kept(), self.threads(prompt):
                # Not the model's own method: Whisper's cuts sound into pieces and looks for time stamps.
                return GenerationMixin.generate(
                    model, **self.tensors(prompt), generation_config=settings, return_dict_in_generate=True,
                    output_logits=True,
                )  # fmt: skip
        finally:
            model.generation_config = own

    def greedy_settings(self, steps: int) -> Any:
        """A generation config for the best tokens, `steps` of them.

        Only what is named here: a checkpoint's penalties and end tokens are no business of the graph.
        """
        from transformers import GenerationConfig

        return GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=steps, min_new_tokens=steps,
            eos_token_id=None, pad_token_id=0, bos_token_id=0, decoder_start_token_id=self.first_token,
        )  # fmt: skip

    def _work(self, inputs: Arrays) -> float:
        """Tokens alone pass through the weights: neither their past nor what is said about each."""
        return float(self.parameters) * max(
            math.prod(value.shape[:2]) for name, value in inputs.items() if not is_past(name)
        )

    def _find_states(self) -> tuple[State, ...]:
        """Fills two caches of the model's own making, on fake tensors where it can."""
        import torch

        caches = []
        for length in (3, 5):
            ids = {"input_ids": torch.ones((2, length), dtype=torch.int64)}
            result = None
            with suppress(Exception):  # a model that looks at values is run for real
                result = self._fake_call(lambda given: self.model(**given, use_cache=True), ids)
            if result is None:
                with state_kept(self.model), torch.no_grad(), self.weights_kept():
                    result = self.model(**ids, use_cache=True)
            caches.append(result.get(self._cache_name))
        return find_states(caches[0], caches[1], self.architecture)
