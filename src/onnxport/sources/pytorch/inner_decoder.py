"""A model that is no encoder-decoder by its config, but has a decoder inside that attends to what it made of an input.

Its own `generate` makes hidden states of the input and lets the decoder, which generates by itself, write over them.
So the model in front of the decoder is the encoder of an encoder-decoder, and becomes the same two graphs. How the
decoder is found and what it is given are conventions of transformers (`encoder_hidden_states`, `generate`): no
architecture is named here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxport.errors import ExportError
from onnxport.sources.base import Arrays
from onnxport.sources.pytorch.encoder_decoder import CrossDecoderSource, EncoderRead, EncoderSource, first_tokens

if TYPE_CHECKING:
    import torch

_HIDDEN, _IDS = "encoder_hidden_states", "input_ids"
# What ends an answer and what an answer begins with: a folder's settings must have what the model's own code says.
_SETTINGS = ("eos_token_id", "pad_token_id")


def inner_decoder(model: Any) -> Any:
    """The one part of the model that generates by itself over an encoder's hidden states, or None."""
    from transformers import GenerationMixin, PreTrainedModel

    if not isinstance(model, PreTrainedModel) or getattr(type(model), "generate", None) is GenerationMixin.generate:
        return None
    found = [
        part
        for part in model.children()
        if isinstance(part, PreTrainedModel)
        and part.can_generate()
        and {_HIDDEN, _IDS, "past_key_values"} <= set(inspect.signature(part.forward).parameters)
    ]
    # With more than one, or with tokens that another part reads too, it is another kind of model.
    return found[0] if len(found) == 1 and not _reads_tokens_elsewhere(model, found[0]) else None


def inner_encoder_inputs(model: Any) -> frozenset[str]:
    """The parameters of the model's forward that are no parameters of its decoder's."""
    decoder = inner_decoder(model)
    return frozenset(inspect.signature(model.forward).parameters) - set(inspect.signature(decoder.forward).parameters)


class InnerEncoderSource(EncoderSource):
    """All that comes before the decoder, with the cross-attention's keys and values; outputs as of `EncoderSource`."""

    def __init__(self, model: torch.nn.Module, samples: tuple[Arrays, Arrays], architecture: str | None = None) -> None:
        self.decoder = inner_decoder(model)
        super().__init__(model, samples, architecture)

    def release(self) -> None:
        super().release()
        del self.decoder

    def accepts(self) -> frozenset[str] | None:
        return inner_encoder_inputs(self.model)

    def _read(self, forward: Callable[..., Any], tensors: Mapping[str, torch.Tensor], tokens: int) -> EncoderRead:
        with _decoder_calls(self.decoder) as seen:
            forward(**tensors, input_ids=first_tokens(tensors, tokens))
        hidden, result = seen[-1]
        return EncoderRead(hidden, None, result["past_key_values"], dict)


class InnerDecoderSource(CrossDecoderSource):
    """The decoder over what the model in front of it gave; inputs and outputs as of `CrossDecoderSource`.

    Args:
        whole: the model.
        sample: inputs of the encoder.
    """

    def __init__(
        self, whole: torch.nn.Module, encoder: InnerEncoderSource, sample: Arrays, outputs: tuple[str, ...],
        architecture: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(encoder.decoder, encoder, outputs, architecture)
        self.whole: Any = whole
        given = self._handed_over(sample)
        start = given[_IDS]
        if tuple(start.shape[1:]) != (1,) or len(set(start[:, 0].tolist())) > 1:
            raise ExportError(
                f"{self.architecture} begins an answer with {start.shape[1]} tokens of its own ({start[0].tolist()}); "
                "onnxport knows answers that begin with one.",
            )
        self.first_token = int(start[0, 0])
        said = {name: given[name] for name in _SETTINGS if given.get(name) is not None}
        self.settings = {"decoder_start_token_id": self.first_token, **said}

    def release(self) -> None:
        super().release()
        del self.whole

    def invoke(self, forward: Callable[..., Any], tensors: Mapping[str, torch.Tensor]) -> Any:
        """One call of the decoder over the states in `tensors`; of hidden states only the shape matters."""
        cache, hidden = self.cache_of(tensors)
        result = forward(input_ids=tensors[_IDS], encoder_hidden_states=hidden, past_key_values=cache, use_cache=True)
        return self.kept(result)

    def _generated(self, prompt: Arrays, steps: int) -> Any:
        """What the decoder writes over that which the model itself hands to it."""
        import torch
        from transformers import GenerationMixin

        inputs = {name: value for name, value in prompt.items() if name != "decoder_input_ids"}
        given = {name: value for name, value in self._handed_over(inputs).items() if name not in _SETTINGS}
        given[_IDS] = torch.from_numpy(prompt["decoder_input_ids"])
        # Else `generate` makes one up, which hides tokens that it takes for padding.
        given["attention_mask"] = torch.ones_like(given[_IDS])
        settings = self.greedy_settings(steps)
        model: Any = self.model
        own, model.generation_config = model.generation_config, settings
        try:
            with torch.no_grad(), self.weights_kept(), self.threads(prompt):
                return GenerationMixin.generate(
                    model, **given, generation_config=settings, return_dict_in_generate=True, output_logits=True
                )
        finally:
            model.generation_config = own

    def _handed_over(self, inputs: Arrays) -> dict[str, Any]:
        """The arguments with which the model's own `generate` calls that of its decoder."""
        import torch

        seen: dict[str, Any] = {}

        def generate(**given: Any) -> Any:
            seen.update(given)
            return given[_IDS]

        self.model.generate = generate  # type: ignore[assignment]  # hides the method
        try:
            with torch.no_grad(), self.weights_kept():
                self.whole.generate(**self.tensors(inputs))
        finally:
            del self.model.generate
        if not {_IDS, _HIDDEN} <= set(seen):
            raise ExportError(f"The `generate` of {self.architecture} does not let its decoder write over an encoder.")
        return seen


@contextmanager
def _decoder_calls(decoder: Any) -> Iterator[list[tuple[Any, Any]]]:
    """(hidden states that the decoder attends to, what it returns), call by call, with a cache."""
    seen: list[tuple[Any, Any]] = []
    hooks = (
        decoder.register_forward_pre_hook(
            lambda _module, given, named: (given, {**named, "use_cache": True}), with_kwargs=True
        ),
        decoder.register_forward_hook(
            lambda _module, _given, named, result: seen.append((named[_HIDDEN], result)), with_kwargs=True
        ),
    )
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _reads_tokens_elsewhere(model: Any, decoder: Any) -> bool:
    """Whether a part beside the decoder has a table of tokens, as a question's encoder has."""
    from transformers import PreTrainedModel

    return any(
        _IDS in inspect.signature(part.forward).parameters
        for part in model.children()
        if isinstance(part, PreTrainedModel) and part is not decoder
    )
