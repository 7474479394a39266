"""Loading a model so that no parameter is silently random."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.checkpoints.checkpoint import Checkpoint
from onnxport.errors import CheckpointError, MissingDependencyError, OnnxPortError, TaskError, UsageError
from onnxport.loading.gguf import finish, gguf_config
from onnxport.loading.model_classes import tower
from onnxport.loading.options import LoadOptions, torch_dtype
from onnxport.loading.own_auto_classes import auto_class
from onnxport.loading.transformers_version import is_newer, upgrade_hint, written_by
from onnxport.loading.weight_loading import computed_notes, dequantized_notes, plan_loading
from onnxport.loading.weight_origins import WeightOrigins, trace_origins
from onnxport.system.library_errors import first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHOWN = 4  # names of parameters in a message


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode.

    Attributes:
        model: a torch module, or a Keras model of transformers' TF classes.
        missing: parameters that the checkpoint lacks or has in another shape, random now.
        shapes: for those of another shape, "checkpoint 3x16, model 5x16".
        notes: what a user should know.
        framework: "pt" or "tf".
        origins: which tensors of the checkpoint it holds.
    """

    model: Any
    missing: tuple[str, ...] = ()
    shapes: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    framework: str = "pt"
    origins: WeightOrigins = field(default_factory=WeightOrigins)


def load_model(folder: Path, checkpoint: Checkpoint, auto: Iterable[str], options: LoadOptions) -> LoadedModel:
    """Load the weights in `folder` into the first of the auto classes `auto` that has the model's family.

    Raises:
        TaskError: no auto class has the family.
        CheckpointError: config or weights cannot be read.
        MissingDependencyError: the model needs a library that is not installed.
        UsageError: an unknown dtype or argument.
        VerificationError: a parameter does not hold the tensor of its name.
    """
    import torch
    import transformers

    settings = dict(options.model_kwargs)
    dtype = torch_dtype(options.dtype)
    with readable_errors(checkpoint.source, written_by(checkpoint.config)):
        config = settings.pop("config", None) or gguf_config(checkpoint)
        if not isinstance(config, transformers.PreTrainedConfig):
            # As the auto classes do it: what is a setting of the config (num_labels) goes there.
            config, settings = transformers.AutoConfig.from_pretrained(
                folder if config is None else config,
                return_unused_kwargs=True,
                trust_remote_code=options.trust_remote_code,
                **settings,
            )
        if checkpoint.quantized is not None:
            vars(config).pop("quantization_config", None)
        auto_class = _auto_class(auto, config, options.trust_remote_code, checkpoint.architectures)
        if auto_class is None:
            raise TaskError(
                f"{checkpoint.source} ({config.model_type}) has no class for {' or '.join(auto)}.",
                hint="`onnxport tasks` shows the tasks.",
            )
        plan = plan_loading(checkpoint, folder, auto_class, config, options)
        # A fixed seed: if random parameters are accepted, the same command still gives the same file.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, report = plan.cls.from_pretrained(
                plan.location,
                config=plan.config,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                weights_only=True,
                dtype=dtype,
                trust_remote_code=options.trust_remote_code,
                local_files_only=True,
                **plan.settings,
                **settings,
            )
    gguf_notes: tuple[str, ...] = ()
    if checkpoint.weights_format == "gguf":
        model, report, gguf_notes = finish(checkpoint, auto_class, model, report)
    if report["error_msgs"]:
        raise CheckpointError(
            f"The weights of {checkpoint.source} do not fit {type(model).__name__} ({report['error_msgs'][0]}).",
            hint="config.json and the weights must come from the same model.",
        )
    shapes = {name: describe_shapes(stored, expected) for name, stored, expected in report["mismatched_keys"]}
    missing = tuple(sorted({*report["missing_keys"], *shapes}))
    model.eval()
    if plan.is_lazy and model.can_generate() and (folder / "generation_config.json").is_file():
        with readable_errors(checkpoint.source):  # transformers reads it only together with the weights
            model.generation_config = transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)
    held = computed_notes(model, missing) if plan.is_lazy else ()
    packed_notes = dequantized_notes(model, checkpoint.quantized) if checkpoint.quantized is not None else ()
    notes = (*_dtype_notes(checkpoint, dtype), *gguf_notes, *packed_notes, *plan.notes, *held)
    origins = trace_origins(model, checkpoint, missing, options.strip_prefix)
    loaded = LoadedModel(model, missing, shapes, notes, origins=origins)
    return loaded if checkpoint.adapter is None else _with_adapter(loaded, folder, checkpoint, auto, options)


def _with_adapter(
    loaded: LoadedModel, folder: Path, checkpoint: Checkpoint, auto: Iterable[str], options: LoadOptions
) -> LoadedModel:
    """The model with the checkpoint's adapter in its weights.

    Raises:
        CheckpointError: the adapter is not one of this model.
    """
    from onnxport.loading.adapters import labels_of, merge_adapter

    adapter = checkpoint.adapter
    assert adapter is not None
    labels = labels_of(loaded.model, adapter)
    if labels is not None:  # its head is trained, and the base model was made without it
        more = {"num_labels": labels, **options.model_kwargs}
        return load_model(folder, checkpoint, auto, replace(options, model_kwargs=more))
    changed = merge_adapter(loaded.model, adapter)
    shapes = {name: shape for name, shape in loaded.shapes.items() if name not in changed}
    missing = tuple(name for name in loaded.missing if name not in changed)
    note = f"The adapter {adapter.folder.name} was merged into {len(changed)} weights of {checkpoint.path.name}."
    return replace(loaded, missing=missing, shapes=shapes, notes=(*loaded.notes, note),
                   origins=loaded.origins.with_adapter(adapter))  # fmt: skip


def describe_missing(missing: Iterable[str], shapes: Mapping[str, str] | None = None) -> str:
    """The first few names, for a message."""
    names = list(missing)
    shown = [f"{name} ({shapes[name]})" if shapes and name in shapes else name for name in names[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def describe_shapes(stored: Iterable[int], expected: Iterable[int]) -> str:
    """Two shapes in words, such as "checkpoint 3x16, model 5x16"."""
    sizes = ["x".join(map(str, shape)) or "scalar" for shape in (stored, expected)]
    return f"checkpoint {sizes[0]}, model {sizes[1]}"


@contextmanager
def readable_errors(source: str, written_by: str | None = None) -> Iterator[None]:
    """Turn whatever a loader raises into an error of ours.

    Args:
        source: how the message calls the checkpoint.
        written_by: the version of transformers that wrote it.
    """
    try:
        yield
    except OnnxPortError:
        raise
    except ImportError as error:
        raise MissingDependencyError(
            f"Loading {source} needs a library that is not installed ({first_line(error)}).",
            hint=f"pip install {error.name or 'the library it names'}",
        ) from error
    except TypeError as error:
        if "unexpected keyword argument" in str(error):
            raise UsageError(f"{first_line(error)}.", hint="Leave that argument out.") from error
        raise _cannot_load(source, error, written_by) from error
    except Exception as error:
        raise _cannot_load(source, error, written_by) from error


def _cannot_load(source: str, error: Exception, written: str | None) -> CheckpointError:
    if written is not None and is_newer(written):
        return CheckpointError(
            f"{source} cannot be loaded: {first_line(error)}. It was written by transformers {written}, which is newer "
            "than the installed one.",
            hint=upgrade_hint(written),
        )
    return CheckpointError(
        f"{source} cannot be loaded: {first_line(error)}.",
        hint="Check config.json against the weights, or copy the checkpoint again.",
    )


def _auto_class(auto: Iterable[str], config: Any, trust_remote_code: bool, architectures: Iterable[str]) -> Any:
    """The first auto class that has a class for `config`, or None; for a tower its own class."""
    auto = tuple(auto)
    own = tower(architectures) if "AutoModel" in auto else None
    if own is not None and isinstance(config, own.config_class):
        return own
    remote = getattr(config, "auto_map", None) or {}
    for name in auto:
        found = auto_class(name)
        if found is None:
            continue
        if type(config) in found._model_mapping or (trust_remote_code and name in remote):
            return found
    return None


def _dtype_notes(checkpoint: Checkpoint, dtype: Any) -> tuple[str, ...]:
    """Say so where the weights are not loaded in the type that they are stored in."""
    name = dtype if isinstance(dtype, str) else str(dtype).removeprefix("torch.")
    if checkpoint.dtype is None or name in {"auto", checkpoint.dtype}:
        return ()
    exact = " (exactly)" if name == "float32" and checkpoint.dtype in {"float16", "bfloat16"} else ""
    return (f"The weights are stored as {checkpoint.dtype} and were loaded as {name}{exact}.",)
