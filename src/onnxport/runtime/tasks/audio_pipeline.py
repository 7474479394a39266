"""What the pipelines of sounds have in common: the folder's feature extractor."""

from __future__ import annotations

from typing import Any

from onnxport.runtime.preprocessing.sounds.extractors import FeatureExtractor, read_feature_extractor
from onnxport.runtime.tasks.base import TaskPipeline
from onnxport.runtime.tasks.model import TaskModel


class AudioPipeline(TaskPipeline):
    """A pipeline with a feature extractor.

    Attributes:
        feature_extractor: of the folder.

    Raises:
        FolderError: the folder has no feature extractor.
        UnknownPreprocessingError: a feature extractor that needs transformers.
    """

    def __init__(self, model: TaskModel, task: str, **settings: Any) -> None:
        self.feature_extractor: FeatureExtractor = read_feature_extractor(model.folder.path)
        super().__init__(model, task, **settings)
