"""Loading a checkpoint into a TF class of transformers so that no weight is silently random."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from onnxport.checkpoints.checkpoint import Checkpoint
from onnxport.errors import CheckpointError, TaskError, UsageError
from onnxport.loading.model_classes import tensorflow_class
from onnxport.loading.options import LoadOptions
from onnxport.loading.weights import LoadedModel, describe_shapes, readable_errors
from onnxport.system.library_errors import first_line
from onnxport.system.memory import require_memory

# The model as it is built, and the file that is read into it.
_COPIES = 2
_STD = 0.02  # of random weights, where the configuration does not say


def load_tensorflow_model(checkpoint: Checkpoint, auto: Iterable[str], options: LoadOptions) -> LoadedModel:
    """Load a checkpoint into the first of the auto classes `auto` that has the model's family.

    Raises:
        TaskError: no auto class has the family.
        CheckpointError: config or weights cannot be read.
        UsageError: an argument that TF classes do not take.
    """
    import transformers

    folder, settings = checkpoint.model_folder, dict(options.model_kwargs)
    if options.dtype not in (None, "float32", "auto"):
        raise UsageError(f"TF models are loaded as float32, not as {options.dtype}.", hint="Leave dtype out.")
    if checkpoint.weights_format == "h5":
        _check_hdf5(checkpoint)
    what = f"Holding the weights of {checkpoint.source}"
    require_memory(_COPIES * checkpoint.total_bytes, what, "Convert on a machine with more memory.")
    with readable_errors(checkpoint.source):
        config, settings = transformers.AutoConfig.from_pretrained(
            settings.pop("config", None) or folder, return_unused_kwargs=True, local_files_only=True, **settings
        )
        cls = tensorflow_class(auto, config)
        if cls is None:
            raise TaskError(
                f"transformers has no TF class of {config.model_type} for {' or '.join(auto)}.",
                hint="`onnxport tasks` shows the tasks.",
            )
        model, report = cls.from_pretrained(
            folder,
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=checkpoint.weights_format == "safetensors",
            local_files_only=True,
            **settings,
        )
        if model.can_generate() and (folder / "generation_config.json").is_file():
            # transformers reads it only with some kinds of weights.
            model.generation_config = transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)
    shapes = {str(name): describe_shapes(stored, expected) for name, stored, expected in report["mismatched_keys"]}
    # A layer without weights (dropout) that has another number in its name is "missing" too.
    empty = {layer.name for layer in model.layers if not layer.weights}
    missing = tuple(sorted({*map(str, report["missing_keys"]), *shapes} - empty))
    _draw(missing_variables(model, missing), config)
    return LoadedModel(model, missing, shapes, _notes(checkpoint), "tf")


def redraw(variables: Sequence[Any], seed: int) -> None:
    """New random numbers for weights."""
    _draw(variables, None, seed)


def _check_hdf5(checkpoint: Checkpoint) -> None:
    """Checked here, because transformers takes an HDF5 file that it cannot read for a PyTorch file.

    Raises:
        CheckpointError: a file cannot be read.
    """
    import h5py

    for path in checkpoint.weight_files:
        try:
            with h5py.File(path, "r") as file:
                named = any(name.startswith("layer_names") for name in file.attrs)
        except Exception as error:  # h5py fails with any type
            raise CheckpointError(
                f"{path.name} of {checkpoint.source} cannot be read as HDF5 with the weights of layers "
                f"({first_line(error)}).",
                hint="Copy or download the file again.",
            ) from error
        if not named:
            raise CheckpointError(f"{path.name} of {checkpoint.source} holds no weights.")


def missing_variables(model: Any, missing: Sequence[str]) -> tuple[Any, ...]:
    """The variables that missing keys stand for: a variable, a whole layer, or a weight in PyTorch's spelling.

    Fewer than `missing` where some cannot be told apart.
    """
    from transformers.modeling_tf_pytorch_utils import convert_tf_weight_name_to_pt_weight_name

    found = []
    for variable in model.weights:
        path = variable.name.partition("/")[2]
        other, _ = convert_tf_weight_name_to_pt_weight_name(variable.name, tf_weight_shape=variable.shape)
        if any(
            path == key or path.startswith(f"{key}/") or f"/{key}/" in f"/{path}"
            or other == key or other.endswith(f".{key}") or key.endswith(f".{other}")
            for key in missing
        ):  # fmt: skip
            found.append(variable)
    return tuple(found)


def _draw(variables: Sequence[Any], config: Any, seed: int = 0) -> None:
    """The same command gives the same file, also where random weights are accepted."""
    std = getattr(config, "initializer_range", None) or _STD
    for number, variable in enumerate(variables):
        shape = tuple(variable.shape)
        if not variable.dtype.is_floating:
            continue
        if len(shape) < 2 and seed == 0:
            continue  # zeros and ones, as every class begins with
        numbers = np.random.default_rng([seed, number]).standard_normal(shape) * (std if seed == 0 else 1.0)
        variable.assign(numbers.astype(variable.dtype.as_numpy_dtype))


def _notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    notes = []
    if checkpoint.framework == "pt":
        notes.append("The weights are those of PyTorch, loaded into a TF class.")
    if checkpoint.dtype not in (None, "float32"):
        notes.append(f"The weights are stored as {checkpoint.dtype} and were loaded as float32.")
    return tuple(notes)
