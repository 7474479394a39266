"""A PyTorch model as a source: run it on numpy inputs, or learn only its output shapes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from onnxport.sources.base import Arrays, MeasuredRun, ModuleOutput, Shapes, TwoRuns, named_leaves, wanted_outputs
from onnxport.sources.pytorch.model_state import state_kept
from onnxport.system.threads import HEAVY_WORK, worth_threads
from onnxport.system.time_limit import time_limit

if TYPE_CHECKING:
    import torch

# Reading weights takes longer than any forward on fake tensors. Below it, and below HEAVY_WORK, a real forward on
# one thread is cheaper than FakeTensor's dispatch (MiniLM, 2 x 11 tokens, 1.5e9: 13 ms real, 80 ms fake;
# ResNet-50 at 233 x 233, 8e12: seconds real).
_LARGE_BYTES = 2**29


class TorchSource:
    """A `torch.nn.Module` and the outputs that are wanted from it.

    Args:
        model: in eval mode; called with keyword tensors.
        outputs: names to keep, in this order; empty keeps all tensors that it returns.
        architecture: the class name to report.
    """

    framework = "pt"

    def __init__(self, model: torch.nn.Module, outputs: tuple[str, ...] = (), architecture: str | None = None) -> None:
        self.model = model
        self.outputs = outputs
        self.architecture = architecture or type(model).__name__
        self.parameters = sum(p.numel() for p in model.parameters())
        self.weight_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
        # Names that only `**kwargs` of the forward takes, but that change what it gives.
        self.extra_inputs: tuple[str, ...] = ()
        self._fake_mode: Any = None
        self._needs_values = False

    def release(self) -> None:
        """Let go of the model; the source cannot be run after that."""
        self._fake_mode = None
        del self.model

    @property
    def largest_copy_bytes(self) -> int:
        """Memory for the weight that takes most when a run computes it from its file; mapped ones take none."""
        from onnxport.weights.lazy import LazyTensor, copied_bytes

        return max((copied_bytes(p) for p in self.model.parameters() if isinstance(p, LazyTensor)), default=0)

    def weights_kept(self) -> AbstractContextManager[None]:
        """For several runs one after the other: weights stay mapped in between."""
        from onnxport.weights.reading import shared_mappings

        return shared_mappings()

    @property
    def version(self) -> str:
        import torch

        return f"torch {torch.__version__}"

    def versions(self) -> dict[str, str]:
        import torch
        import transformers

        return {"torch": torch.__version__, "transformers": transformers.__version__}

    def accepts(self) -> frozenset[str] | None:
        """Names of the forward's parameters, or None when it takes any (`**kwargs` alone)."""
        parameters = inspect.signature(self.model.forward).parameters.values()
        names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        return frozenset(names | set(self.extra_inputs)) if names else None

    def takes_more(self) -> bool:
        """Whether the forward also takes names that it does not list (`**kwargs`)."""
        return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(self.model.forward).parameters.values())

    def signature(self, forward: Callable[..., Any]) -> inspect.Signature:
        """The parameters that the exporter sees in place of those of `forward`: the graph's inputs."""
        return _listing(inspect.signature(forward), self.extra_inputs)

    def run(self, inputs: Arrays) -> Arrays:
        """The wanted outputs for `inputs`, computed for real, as numpy arrays.

        Whatever the model changes in its own state is put back, so that no run depends on those before it.
        """
        return self.run_noting(inputs)[0]

    def run_noting(self, inputs: Arrays) -> tuple[Arrays, tuple[str, ...]]:
        """As `run`; and names of what the model changed in its own state."""
        with state_kept(self.model) as changes:
            outputs = self._run(inputs)
        return outputs, tuple(changes.names)

    def run_twice(self, inputs: Arrays) -> TwoRuns:
        """Two runs in a row, the second in the state that the first left behind."""
        with state_kept(self.model) as changes:
            first, second = ({name: v.copy() for name, v in self._run(inputs).items()} for _ in range(2))
        return TwoRuns(first, second, tuple(changes.names))

    def named_sizes(self) -> dict[int, str]:
        """Whole numbers that the model's config, attributes and code name, and where."""
        from onnxport.sources.pytorch.named_sizes import named_sizes

        return named_sizes(self.model)

    def _run(self, inputs: Arrays) -> Arrays:
        import torch

        limit = time_limit("run the source model once", self.weight_bytes)
        with torch.no_grad(), self.threads(inputs), limit:
            result = self.invoke(self.model, self.tensors(inputs))
        return {name: tensor.numpy() for name, tensor in self.select(result).items()}

    def measured(self, inputs: Arrays) -> MeasuredRun:
        """A run that can be repeated with less rounding and with more."""
        from onnxport.sources.pytorch.measured import TorchRun

        return TorchRun(self, inputs)

    def modules(self, inputs: Arrays) -> list[ModuleOutput]:
        """What each module gave, in the order in which the calls ended."""
        from onnxport.sources.pytorch.observed import observed_modules

        return observed_modules(self, inputs)

    def operators(self, inputs: Arrays, first: int, last: int) -> list[ModuleOutput]:
        """What operators gave after call `first` of `modules` ended and before call `last` did."""
        from onnxport.sources.pytorch.observed import observed_operators

        return observed_operators(self, inputs, first, last)

    def invoke(self, forward: Callable[..., Any], tensors: Mapping[str, torch.Tensor]) -> Any:
        """One call of the model (or of `forward` in its place), without a cache."""
        with without_cache(self.model):
            return forward(**tensors)

    def threads(self, inputs: Arrays) -> AbstractContextManager[None]:
        """For a run on `inputs`: as many threads as torch has, or one where more would not help."""
        return _threads_for(worth_threads(self.weight_bytes, self._work(inputs)))

    def _work(self, inputs: Arrays) -> float:
        return float(self.parameters) * sum(value.size for value in inputs.values())

    def _is_heavy(self, inputs: Arrays) -> bool:
        return self.weight_bytes >= _LARGE_BYTES or self._work(inputs) >= HEAVY_WORK

    def tensors(self, inputs: Arrays) -> dict[str, torch.Tensor]:
        """Numpy inputs as torch tensors."""
        import torch

        return {name: torch.from_numpy(value) for name, value in inputs.items()}

    def shapes(self, inputs: Arrays) -> Shapes:
        """Output shapes for `inputs`: on fake tensors for a large model or input, so that it costs no memory.

        A model that looks at values (not only at shapes) cannot run on fake tensors and is run for real.
        """
        refused = False
        if self._is_heavy(inputs) and not self._needs_values:
            try:
                tensors = self.select(self._fake_run(inputs))
                return {name: tuple(int(size) for size in tensor.shape) for name, tensor in tensors.items()}
            except Exception:  # whatever fake tensors could not do, the real run decides
                refused = True
        shapes = {name: value.shape for name, value in self.run(inputs).items()}
        # It was not the size: the next ones would be refused too (a mixture of experts, say).
        self._needs_values = self._needs_values or refused
        return shapes

    def paths(self, samples: Sequence[Arrays]) -> list[tuple[str, ...]]:
        """The operators that torch runs for each sample, in order: the path that the model's code takes.

        All are run in the same way, for real or on fake tensors: the two do not run the same operators.
        """
        heavy = any(self._is_heavy(inputs) for inputs in samples)
        return [self._path(inputs, heavy) for inputs in samples]

    def _path(self, inputs: Arrays, heavy: bool) -> tuple[str, ...]:
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode

        names: list[str] = []

        class Recorder(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                names.append(str(func))
                return func(*args, **(kwargs or {}))

        with Recorder():
            if heavy:
                self._fake_run(inputs)
            else:
                with state_kept(self.model), torch.no_grad(), _threads_for(heavy=False):
                    self.invoke(self.model, self.tensors(inputs))
        return tuple(names)

    def _fake_run(self, inputs: Arrays) -> object:
        """The model's result on fake tensors: shapes without values."""
        return self._fake_call(lambda tensors: self.invoke(self.model, tensors), self.tensors(inputs))

    def _fake_call(self, call: Callable[[dict[str, torch.Tensor]], Any], tensors: dict[str, torch.Tensor]) -> Any:
        import torch
        from transformers.exporters.exporter_dynamo import reset_model_state

        from onnxport.weights.placeholders import new_fake_mode, placeholders

        if self._fake_mode is None:
            self._fake_mode = new_fake_mode()
        mode = self._fake_mode
        # Some models keep tensors between calls: a real one must not be met in this call, and a fake one must not stay.
        with (
            state_kept(self.model), placeholders(self.model, mode), mode, torch.no_grad(),
            reset_model_state(self.model), _experts_by_gather(self.model),
        ):  # fmt: skip
            return call({name: mode.from_tensor(tensor) for name, tensor in tensors.items()})

    def select(self, result: object) -> dict[str, torch.Tensor]:
        """The wanted tensors of what the model returned, by name.

        Raises:
            ExportError: none of the wanted outputs is there.
        """
        import torch

        tensors = dict(named_leaves(result, lambda leaf: isinstance(leaf, torch.Tensor)))
        return wanted_outputs(tensors, self.outputs, self.architecture)


@contextmanager
def _experts_by_gather(model: Any) -> Iterator[None]:
    """A mixture of experts computed in the one way whose shapes do not depend on which expert is chosen.

    transformers' usual way, `torch.nn.functional.grouped_mm`, refuses float32 on fake tensors.
    """
    original: dict[str, str] | None = getattr(model, "get_experts_implementation", dict)()
    if not original or "grouped_mm" not in original.values():
        yield
        return
    model.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        model.set_experts_implementation(original)


@contextmanager
def _threads_for(heavy: bool) -> Iterator[None]:
    """One thread for little work."""
    import torch

    threads = torch.get_num_threads()
    if not heavy:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def without_cache(model: torch.nn.Module) -> Iterator[None]:
    """`config.use_cache` off: a decoder's cache is no output of a single graph."""
    config: Any = getattr(model, "config", None)
    if not getattr(config, "use_cache", False):
        yield
        return
    config.use_cache = False
    try:
        yield
    finally:
        config.use_cache = True


def _listing(signature: inspect.Signature, names: Sequence[str]) -> inspect.Signature:
    """The signature with `names` as parameters of their own, before `**kwargs`."""
    own = list(signature.parameters.values())
    more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
    last = [p for p in own if p.kind is p.VAR_KEYWORD]
    return signature.replace(parameters=[*(p for p in own if p not in last), *more, *last])


@contextmanager
def selected_outputs(source: TorchSource) -> Iterator[None]:
    """The model's forward returns only the wanted tensors, flat and named, as the exporter reads them."""
    original = source.model.forward

    def forward(**tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
        return source.select(source.invoke(original, named))

    forward.__signature__ = source.signature(original)  # type: ignore[attr-defined]
    source.model.forward = forward
    try:
        yield
    finally:
        # An instance attribute hides the class's method: drop it instead of pinning the bound method.
        del source.model.forward
        if source.model.forward != original:
            source.model.forward = original
