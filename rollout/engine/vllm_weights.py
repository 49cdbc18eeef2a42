"""Put new weights into a running engine, and prove that they are there. `put` runs in vLLM's worker processes.

vLLM (0.26 to 0.33) reloads layer by layer into the memory that it already has. It does not report what it left out, so
a sample of the files is searched for in the model. vLLM keeps several tensors of a file in one, and splits them among
GPUs, but their rows stay whole or are cut into equal parts.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from vllm.config import set_current_vllm_config

from rollout.engine.checkpoints import weight_files

_SAMPLED = 64  # tensors
_COLUMNS = 16  # of each row, which are compared

Told = dict[str, Any]
"""A worker's report: plain values only, which vLLM passes between processes."""


def put(worker: Any, folder: str) -> Told:
    """Put the weights in `folder` into the model of `worker`, vLLM's, and return a report for `problem`."""
    model = worker.model_runner.get_model()
    before = _addresses(model)
    with set_current_vllm_config(worker.vllm_config):
        worker.reload_weights(weights_path=folder)
        _renew_tied(model)
    there = _Model(model)
    return {
        "moved": [place for place, address in _addresses(model).items() if before.get(place, address) != address],
        "packed": [place for place, module in model.named_modules() if not _is_packed_as_it_is(module)],
        "rows": {name: there.found(name, rows) for name, rows in _sample(Path(folder))},
    }


def problem(told: list[Told]) -> str | None:
    """Why the weights may not be in place, from the reports of all workers; None if they are."""
    rows: dict[str, list[list[bool]]] = {}
    for one in told:
        for place in (*one["moved"], *one["packed"]):
            return f"{place} did not follow"
        for name, found in one["rows"].items():
            rows.setdefault(name, []).extend([] if found is None else [found])
    for name, of_workers in rows.items():
        if of_workers and not all(any(parts) for parts in zip(*of_workers, strict=True)):
            return f"{name} is not what the file has"
    compared = sum(bool(of_workers) for of_workers in rows.values())
    return None if 2 * compared >= len(rows) > 0 else f"only {compared} of {len(rows)} tensors can be compared"


def _renew_tied(model: torch.nn.Module) -> None:
    """Renew what a layer has made for itself of a weight that it shares with another layer: vLLM only renews the
    other's.

    On a CPU that is the output head's weight, in the form used for multiplication.
    """
    owners = dict[int, torch.nn.Module]()
    for module in model.modules():
        weight = module._parameters.get("weight")
        method = getattr(module, "quant_method", None)
        if weight is not None and owners.setdefault(id(weight), module) is not module and method is not None:
            method.process_weights_after_loading(module)


def _addresses(model: torch.nn.Module) -> dict[str, int]:
    """Addresses of the model's tensors, including those made from others: CUDA graphs read them there."""
    found = dict[str, int]()
    for place, module in model.named_modules():
        for name, value in [*vars(module).items(), *module._parameters.items(), *module._buffers.items()]:
            inner = {} if isinstance(value, torch.nn.Module) else getattr(value, "__dict__", {})
            for path, tensor in [(name, value), *((f"{name}.{key}", item) for key, item in inner.items())]:
                if isinstance(tensor, Tensor) and tensor.is_cuda and tensor.ndim:  # no constants
                    found[f"{place}.{path}"] = tensor.data_ptr()
    return found


def _is_packed_as_it_is(module: torch.nn.Module) -> bool:
    """Whether the matrix that a CPU multiplies with equals the layer's weight, if the layer has kept both."""
    weight = module._parameters.get("weight")
    if not hasattr(module, "cpu_linear") or weight is None or weight.ndim != 2 or not weight.numel():
        return True
    columns = _columns(weight.shape[1])
    return bool(torch.equal(_multiplied_with(module, columns, weight.shape[1], weight.dtype), weight[:, columns]))


def _columns(width: int) -> Tensor:
    return torch.linspace(0, width - 1, min(width, _COLUMNS)).long()


def _multiplied_with(module: Any, columns: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """These columns of the layer's matrix, found by a multiplication with it."""
    ones = torch.nn.functional.one_hot(columns, width).to(dtype)
    product: Tensor = module.quant_method.apply(module, ones)
    return product.T


def _sample(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Some tensors of the files, evenly spread: a few rows of each. A tensor without rows is one row."""
    places = [(path, name) for path in weight_files(folder) for name in _names(path)]
    for path, name in places[:: max(1, len(places) // _SAMPLED)]:
        with safe_open(path, framework="pt") as file:
            part = file.get_slice(name)
            shape = part.get_shape()
            if len(shape) == 1:
                yield name, part[:][None]
            elif len(shape) == 2:
                yield name, torch.cat([part[row : row + 1] for row in sorted({0, shape[0] // 2, shape[0] - 1})])


def _names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return sorted(file.keys())


@dataclass(frozen=True)
class _Matrix:
    """A matrix of the model, with some of its columns. It may hold only a part of each row in the file."""

    width: int
    values: Tensor

    def has(self, row: Tensor) -> bool:
        """Whether a row of the file, or a part of it, is one of its rows."""
        parts = (part[_columns(self.width)].to(self.values) for part in row.split(self.width))
        return any(bool((self.values == part).all(1).any()) for part in parts)


class _Model:
    """Finds the tensors of files in vLLM's model."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._mapper = getattr(model, "hf_to_vllm_mapper", None)
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self._modules = dict(model.named_modules())

    def found(self, name: str, rows: Tensor) -> list[bool] | None:
        """Whether each of the rows is in this worker's part of the model; None if they cannot be searched for."""
        for mapped in [name] if self._mapper is None else self._mapper.apply_list([name]):
            matrices = [self._matrix(place) for place in self._places(mapped)]
            fitting = [matrix for matrix in matrices if matrix and rows.shape[1] % matrix.width == 0]
            if fitting and (len(rows) > 1 or mapped in self._parameters):
                return [any(matrix.has(row) for matrix in fitting) for row in rows]
        return None

    def _places(self, name: str) -> list[str]:
        """The parameter with that name, else those of its module; for an expert, those of the module of all experts."""
        if name in self._parameters:
            return [name]
        owner, _, kind = name.rpartition(".")
        module = re.sub(r"(\.experts)\.\d+$", r"\1", owner.rpartition(".")[0])
        return [place for place in self._parameters if place.startswith(f"{module}.") and place.endswith(kind)]

    def _matrix(self, place: str) -> _Matrix | None:
        values, module = self._parameters[place], self._modules[place.rpartition(".")[0]]
        if values.numel():
            flat = values.reshape(-1, values.shape[-1])
            return _Matrix(flat.shape[1], flat[:, _columns(flat.shape[1])])
        if not hasattr(module, "cpu_linear"):
            return None
        width = int(getattr(module, "input_size_per_partition", module.input_size))
        return _Matrix(width, _multiplied_with(module, _columns(width), width, values.dtype))
