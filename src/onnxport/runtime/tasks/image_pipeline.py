"""What the pipelines of images have in common: the folder's image processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from onnxport.runtime.preprocessing.images.load import load_image
from onnxport.runtime.preprocessing.images.processor import ImageProcessor, read_image_processor
from onnxport.runtime.tasks.base import Prepared, TaskPipeline
from onnxport.runtime.tasks.model import TaskModel


@dataclass(frozen=True)
class ImageSettings:
    """Arguments of the call that all tasks of images have.

    Attributes:
        timeout: seconds to wait for an image that is an address.
    """

    timeout: float | None = None


class ImagePipeline(TaskPipeline):
    """A pipeline with an image processor. An image is a path, an address or a PIL image.

    Attributes:
        images: the folder's image processor.

    Raises:
        FolderError: the folder has no image processor.
        UnknownPreprocessingError: an image processor that needs transformers.
    """

    Settings: ClassVar[type[Any]] = ImageSettings
    aliases: ClassVar[Mapping[str, str]] = {}

    def __init__(self, model: TaskModel, task: str, **settings: Any) -> None:
        self.images: ImageProcessor = read_image_processor(model.folder.path)
        super().__init__(model, task, **settings)

    def __call__(self, inputs: Any = None, *, batch_size: int | None = None, **settings: Any) -> Any:
        given = settings.pop("images", settings.pop("image", inputs)) if inputs is None else inputs
        return super().__call__(given, batch_size=batch_size, **settings)

    def prepare(self, item: Any, settings: Any) -> Prepared:
        """The context is the (height, width) of the image."""
        image = load_image(item, settings.timeout)
        return Prepared([self.images(image)], (image.height, image.width))
