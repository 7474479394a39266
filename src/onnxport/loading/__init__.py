"""From a checkpoint or a live model to what is exported: task, pipeline, and the parts of the model."""
