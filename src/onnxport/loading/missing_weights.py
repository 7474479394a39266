"""What follows from parameters that a checkpoint lacks: an error, an output left out, or only a note."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnxport.checkpoints.checkpoint import Checkpoint
from onnxport.errors import CheckpointError
from onnxport.loading.task_detection import identity_of, own_tasks
from onnxport.loading.weights import LoadedModel, describe_missing
from onnxport.tasks import Task

# For every output: whether it depends on the missing parameters. None: the model could not be run.
Dependence = Callable[[], Mapping[str, bool] | None]


def judge_missing_weights(
    loaded: LoadedModel, checkpoint: Checkpoint, task: Task | str, depends: Dependence, *, allowed: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(outputs to drop, notes) for the parameters that the checkpoint lacks.

    Where an output is the result itself (hidden states), it can be left out. Where a label or a box is computed from
    the outputs, all of them are needed. The first output and a sentence embedding are never left out.

    Args:
        task: a row of the table, or the name of a task that is not in it.
        depends: called only where it matters.
        allowed: random parameters were accepted.

    Raises:
        CheckpointError: an output that the task needs depends on them, and that was not allowed.
    """
    if not loaded.missing:
        return (), ()
    names = describe_missing(loaded.missing, loaded.shapes)
    if allowed:
        return (), (f"Random, because the checkpoint lacks them (it was allowed): {names}.",)
    found = depends() if isinstance(task, Task) else None
    if found and isinstance(task, Task):
        kept = [name for name in task.outputs if name in found]
        random = tuple(name for name in kept if found[name])
        needed = kept if task.decision is not None else [*kept[:1], "sentence_embedding"]
        if kept and not set(random) & set(needed):
            if not random:
                return (), (f"Not in the checkpoint, and no output depends on them: {names}.",)
            return random, (f"{', '.join(random)} was left out: the checkpoint lacks its weights ({names}).",)
    raise _random_weights(loaded, checkpoint, task.name if isinstance(task, Task) else task, names)


def _random_weights(loaded: LoadedModel, checkpoint: Checkpoint, task: str, names: str) -> CheckpointError:
    own = [name for name in own_tasks(identity_of(checkpoint, framework=loaded.framework)) if name != task]
    if checkpoint.adapter is not None:
        own = []  # the classes of the adapter's task
    if checkpoint.weights_format == "gguf":
        own, names = [], f"{names} (transformers does not find all of them in GGUF files of every architecture)"
    made_for = f"The checkpoint is for {' or '.join(own[:3])}: choose that with `--task`. Or " if own else "To "
    return CheckpointError(
        f"The weights of {checkpoint.source} lack {len(loaded.missing)} parameters of "
        f"{type(loaded.model).__name__}: {names} would be random.",
        hint=f"{made_for}convert it with random weights all the same: `--allow-missing-weights`.",
    )
