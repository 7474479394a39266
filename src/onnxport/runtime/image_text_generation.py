"""Text generation from texts with images: arrays in, token ids or texts out; needs numpy and onnxruntime only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxport.artifact.folder import Folder, open_folder
from onnxport.errors import FolderError, UsageError
from onnxport.formats.json_file import read_object_if_present
from onnxport.runtime.closing import Closing
from onnxport.runtime.decoding.prefill import Stop
from onnxport.runtime.decoding.settings import GenerationSettings, read_settings
from onnxport.runtime.embedded_decoder import EmbeddedDecoder, ImageReader
from onnxport.runtime.generation import generate
from onnxport.runtime.graph_choice import choose_graphs
from onnxport.runtime.prompts.tokenizer import FolderTokenizer
from onnxport.runtime.session import OnnxSession
from onnxport.runtime.text_generation import grouped

GRAPHS = ("vision_encoder", "embed_tokens", "decoder_model_merged")
_MODEL = "model"
_IMAGE_TOKEN = ("image_token_id", "image_token_index")


class ImageTextGenerator(Closing):
    """Continues texts with images.

    `ImageTextGenerator(folder)(inputs)` returns a text for each row. The inputs are arrays from the model's processor:
    `input_ids` and `attention_mask` (rows, tokens), padded on the left, `pixel_values`, and the other inputs of the
    graph `vision_encoder`.

    Args:
        folder: a folder that onnxport wrote for image-text-to-text, by its path or opened already.
        component: "model"; or "model_quantized", for the variants with that suffix. A graph without such a variant
            is used as converted.
        threads: threads of one operator; None: as many as the process may use processors.

    Raises:
        FolderError: no such folder, not these graphs in it, or a config.json without an image token.
    """

    def __init__(self, folder: str | Path | Folder, component: str = _MODEL, threads: int | None = None) -> None:
        opened = open_folder(folder)
        self.folder = opened.path
        names = _components(opened, component)
        vision, embeddings, decoder = (OnnxSession(opened, name, threads) for name in names)
        self.reader = ImageReader(vision)
        self.decoder = EmbeddedDecoder(decoder, embeddings, _image_token(self.folder))
        self._texts: FolderTokenizer | None = None

    @property
    def sessions(self) -> Sequence[OnnxSession]:
        return (self.reader.session, self.decoder.embeddings, self.decoder.session)

    @property
    def texts(self) -> FolderTokenizer:
        """The folder's tokenizer.

        Raises:
            FolderError: it has no tokenizer.json.
        """
        self._texts = self._texts or FolderTokenizer(self.folder)
        return self._texts

    def settings(self, **settings: Any) -> GenerationSettings:
        """The folder's settings, with these in their place."""
        return read_settings(self.folder, **settings)

    def tokens(
        self, inputs: Mapping[str, Any], settings: GenerationSettings, stop: Stop | None = None
    ) -> list[list[int]]:
        """Answers as token ids without the prompt, `num_return_sequences` for each row.

        Args:
            inputs: arrays by name; images are optional.
            stop: ends answers beside `settings.eos_token_id`.

        Raises:
            UsageError: an input is missing or of another size, the number of image tokens is not that of the
                images' features, or there is no room for an answer.
        """
        if "input_ids" not in inputs:
            raise UsageError("The input 'input_ids' is missing.", hint="Pass what the model's processor returns.")
        prompt = self.reader.prompt(inputs, self.decoder.image_token)
        return generate(self.decoder, prompt, settings, stop=stop)

    def __call__(self, inputs: Mapping[str, Any], **settings: Any) -> list[Any]:
        """Texts for the rows of `inputs`; as `tokens`."""
        chosen = self.settings(**settings)
        rows = self.tokens(inputs, chosen, stop=self.texts.stop(chosen.stop_strings))
        return grouped([self.texts.decode(row) for row in rows], chosen.num_return_sequences)


def has_images_in_text(components: Sequence[str]) -> bool:
    """Whether a folder with these graphs is that of a model for texts with images."""
    return all(any(name.startswith(graph) for name in components) for graph in GRAPHS)


def _components(folder: Folder, component: str) -> list[str]:
    """The names of the three graphs."""
    known = folder.names
    if not has_images_in_text(known):
        raise FolderError(
            f"{folder.path} has no model for texts with images: its graphs are {', '.join(known)}.",
            hint="Convert such a model with `--task image-text-to-text`.",
        )
    return choose_graphs(folder.path, known, GRAPHS, component)


def _image_token(folder: Path) -> int:
    config = read_object_if_present(folder / "config.json")
    token = next((config[name] for name in _IMAGE_TOKEN if isinstance(config.get(name), int)), None)
    if token is None:
        raise FolderError(
            f"config.json of {folder} has no image_token_id.",
            hint="Copy config.json of the checkpoint into the folder.",
        )
    return int(token)
