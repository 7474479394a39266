"""Small inputs for one forward pass, and which outputs depend on given parameters.

A checkpoint can lack parameters that nothing asks for (the pooler of a model that was trained
on masked words). Whether that matters is measured, not looked up by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from onnxport.loading.components import Components
from onnxport.tasks import IMAGE_AND_TEXTS

if TYPE_CHECKING:
    import torch

_TEXT = "A small sample."
_AUDIO_SAMPLES = 16_000  # one second at the usual rate
_LENGTH = 8  # tokens of a made-up text


def outputs_that_depend(
    model: torch.nn.Module, names: Iterable[str], components: Components, kind: str | None
) -> dict[str, bool] | None:
    """For every output tensor of `model`: whether it depends on any of the parameters `names`.

    Two tests must agree that it does not: no gradient flows from the parameters to the output,
    and new random values for them leave it unchanged, bit for bit. The parameters are restored.

    Args:
        model: in eval mode, on the CPU or elsewhere.
        names: state dict names of parameters or buffers.
        components: tokenizer and processors; where one is missing its inputs are made up.
        kind: the task's kind of sample ("text", "image", ...), or None if unknown.

    Returns:
        output name -> depends; None where no inputs could be made or the model did not run on them.
    """
    state = model.state_dict(keep_vars=True)
    tensors = [state[name] for name in names if name in state]
    if not tensors or any(not tensor.is_floating_point() for tensor in tensors):
        return None
    trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
    saved = [tensor.detach().clone() for tensor in tensors]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        for source in (components, Components()):  # made-up inputs where the processor's own do not fit
            found = _compare(model, tensors, source, kind)
            if found is not None:
                break
        return found
    finally:
        _restore(tensors, saved)
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)


def _compare(
    model: torch.nn.Module, tensors: list[torch.Tensor], components: Components, kind: str | None
) -> dict[str, bool] | None:
    """Both tests on one set of inputs; None where the model does not run on them. Changes `tensors`."""
    import torch

    try:
        inputs = small_inputs(model, components, kind)
        for tensor in tensors:
            tensor.requires_grad_(True)
        with torch.enable_grad():
            before = _tensors(model(**inputs))
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for tensor in tensors:
                tensor.copy_(torch.randn_like(tensor))
            after = _tensors(model(**inputs))
    except Exception:
        return None
    return {
        name: value.requires_grad or name not in after or not torch.equal(value.detach(), after[name])
        for name, value in before.items()
    }


def _restore(tensors: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    import torch

    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.requires_grad_(False)
            tensor.copy_(value)


def small_inputs(model: torch.nn.Module, components: Components, kind: str | None) -> dict[str, Any]:
    """Keyword arguments for one cheap forward pass: batch 1, few tokens, the processor's image size.

    Raises:
        whatever a processor raises; KeyError where a size cannot be found out.
    """
    import torch

    accepted = inspect.signature(model.forward).parameters
    inputs: dict[str, Any] = {}
    if "input_ids" in accepted and kind not in {"image", "audio"}:
        inputs.update(_text(model, components.tokenizer))
        if kind == "choices":
            inputs = {name: value.unsqueeze(1).repeat(1, 2, 1) for name, value in inputs.items()}
    if "pixel_values" in accepted and kind in {"image", "image+points", *IMAGE_AND_TEXTS, None}:
        inputs.update(_image(model, components.image_processor))
    if kind == "audio":
        inputs.update(_audio(model, components.feature_extractor))
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    kept = {name: value for name, value in inputs.items() if name in accepted or open_ended}
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    dtype = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), torch.float32)
    return {
        name: value.to(device, dtype) if value.is_floating_point() else value.to(device) for name, value in kept.items()
    }


def _text(model: Any, tokenizer: Any) -> dict[str, torch.Tensor]:
    import torch

    if tokenizer is not None:
        tokens = dict(tokenizer(_TEXT, return_tensors="pt"))
    else:
        config = model.config.get_text_config()
        ids = torch.arange(1, _LENGTH + 1).remainder(int(config.vocab_size)).unsqueeze(0)
        end = getattr(config, "eos_token_id", None)
        if isinstance(end, int):  # encoder-decoders classify at the end token and insist on one
            ids[0, -1] = end
        tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if getattr(model.config, "is_encoder_decoder", False):
        tokens["decoder_input_ids"] = tokens["input_ids"]
    return tokens


def _image(model: Any, processor: Any) -> dict[str, torch.Tensor]:
    import torch

    if processor is not None:
        from PIL import Image

        return dict(processor(images=Image.new("RGB", (64, 48), (90, 120, 30)), return_tensors="pt"))
    config = getattr(model.config, "vision_config", model.config)
    size = getattr(config, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    return {"pixel_values": torch.zeros(1, getattr(config, "num_channels", 3), height, width)}


def _audio(model: Any, extractor: Any) -> dict[str, torch.Tensor]:
    import numpy as np
    import torch

    if extractor is not None:
        rate = getattr(extractor, "sampling_rate", _AUDIO_SAMPLES)
        return dict(extractor(np.zeros(_AUDIO_SAMPLES, np.float32), sampling_rate=rate, return_tensors="pt"))
    if model.main_input_name != "input_values":
        raise KeyError(model.main_input_name)
    return {"input_values": torch.zeros(1, _AUDIO_SAMPLES)}


def _tensors(outputs: Any) -> dict[str, torch.Tensor]:
    """The tensors among a model's named outputs."""
    import torch

    return {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}
