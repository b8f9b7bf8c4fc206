"""Linear layers in Megatron's kinds: replicated, column-parallel, merged columns, fused QKV, row-parallel.

Every parameter carries a `weight_loader(parameter, loaded, *shard)` that copies a checkpoint's tensor into this rank's
part of it; `shard` names the part of a fused weight ("q", "k", "v", or the index in a merged one).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from medvllm_kernels import cpu_linear
from torch import Tensor, nn

from medvllm.errors import MedvllmError
from medvllm.layers.parallel import all_reduce, tp_rank, tp_size

__all__ = ["ColumnParallelLinear", "Linear", "MergedColumnParallelLinear", "QKVParallelLinear", "RowParallelLinear"]


def divide(total: int, parts: int, what: str) -> int:
    """`total / parts`, refusing a remainder in words of the user's options."""
    if total % parts:
        raise MedvllmError(
            f"{what} is {total}, which {parts} ranks can't share evenly; use another tensor_parallel_size"
        )
    return total // parts


class Linear(nn.Module):
    """y = x Wᵀ + b for x (tokens, in_features); the same weight on every rank."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight: Any = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.weight.weight_loader = self.load_weight
        self.bias: Any = None
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False)
            self.bias.weight_loader = self.load_bias
        self.packed: Any = None  # the weight in a kernel's own layout, set by `medvllm.layers.packing`
        self.row_tile: int | None = None  # rows of every product when results must not depend on the batch
        self.workspace: Any = None  # where outputs are placed, with the name of this layer's buffer; set by the engine
        self.buffer = ""

    def load_weight(self, parameter: Any, loaded: Tensor) -> None:
        """Copies a checkpoint's (out, in) tensor."""
        copy(parameter, loaded)

    def load_bias(self, parameter: Any, loaded: Tensor) -> None:
        """Copies a checkpoint's (out,) tensor."""
        copy(parameter, loaded)

    def matmul(self, x: Tensor) -> Tensor:
        """x Wᵀ + b over this rank's part of the weight."""
        if self.row_tile is not None:
            return self._tiled(x, self.row_tile)
        return self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        if self.packed is not None:
            return cpu_linear.linear(x, self.packed, self.bias, self._output(x))
        out = self._output(x)
        if out is None:
            return F.linear(x, self.weight, self.bias)
        if self.bias is None:
            return torch.mm(x, self.weight.t(), out=out)
        return torch.addmm(self.bias, x, self.weight.t(), out=out)

    def _output(self, x: Tensor) -> Tensor | None:
        """The preallocated place of the product; None without a workspace."""
        if self.workspace is None or x.dim() != 2:
            return None
        return self.workspace.take(self.buffer, (x.shape[0], self.out_features), x.dtype)

    def _tiled(self, x: Tensor, rows: int) -> Tensor:
        """The same product in calls of exactly `rows` rows, so that a row's sum is taken in one order in any batch."""
        padded = F.pad(x, (0, 0, 0, -x.shape[0] % rows))
        parts = [self._product(part.contiguous()).clone() for part in padded.split(rows)]
        return torch.cat(parts)[: x.shape[0]]

    def forward(self, x: Tensor) -> Tensor:
        return self.matmul(x)


class ColumnParallelLinear(Linear):
    """A linear layer whose output features are split over the ranks."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__(in_features, divide(out_features, tp_size(), "out_features"), bias=bias)

    def load_weight(self, parameter: Any, loaded: Tensor) -> None:
        copy(parameter, part_of_rank(loaded, parameter.shape[0], tp_rank()))

    load_bias = load_weight


class MergedColumnParallelLinear(Linear):
    """Several column-parallel layers on the same input as one product (gate and up)."""

    def __init__(self, in_features: int, out_features: Sequence[int], *, bias: bool = False) -> None:
        self.parts = [divide(size, tp_size(), "out_features") for size in out_features]
        super().__init__(in_features, sum(self.parts), bias=bias)

    def load_weight(self, parameter: Any, loaded: Tensor, shard: int | None = None) -> None:
        """Copies part number `shard`; a tensor of all parts stacked when `shard` is None."""
        if shard is None:
            sizes = [size * tp_size() for size in self.parts]
            for index, part in enumerate(loaded.split(sizes)):
                self.load_weight(parameter, part, index)
            return
        start = sum(self.parts[:shard])
        target = parameter.data[start : start + self.parts[shard]]
        copy(target, part_of_rank(loaded, self.parts[shard], tp_rank()))

    load_bias = load_weight


class QKVParallelLinear(Linear):
    """The query, key and value projections as one product; whole heads go to a rank."""

    def __init__(
        self, hidden_size: int, head_dim: int, num_heads: int, num_kv_heads: int, *, bias: bool = False
    ) -> None:
        self.num_heads = divide(num_heads, tp_size(), "num_attention_heads")
        self.num_kv_heads = divide(num_kv_heads, tp_size(), "num_key_value_heads")
        self.q_size, self.kv_size = self.num_heads * head_dim, self.num_kv_heads * head_dim
        super().__init__(hidden_size, self.q_size + 2 * self.kv_size, bias=bias)

    def load_weight(self, parameter: Any, loaded: Tensor, shard: str | None = None) -> None:
        """Copies the projection named by `shard`, "q", "k" or "v"; all three stacked when it is None."""
        sizes = {"q": self.q_size, "k": self.kv_size, "v": self.kv_size}
        if shard is None:
            for name, part in zip("qkv", loaded.split([size * tp_size() for size in sizes.values()]), strict=True):
                self.load_weight(parameter, part, name)
            return
        start = {"q": 0, "k": self.q_size, "v": self.q_size + self.kv_size}[shard]
        target = parameter.data[start : start + sizes[shard]]
        copy(target, part_of_rank(loaded, sizes[shard], tp_rank()))

    load_bias = load_weight


class RowParallelLinear(Linear):
    """A linear layer whose input features are split over the ranks; the partial products are summed."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__(divide(in_features, tp_size(), "in_features"), out_features, bias=bias)

    def load_weight(self, parameter: Any, loaded: Tensor) -> None:
        size = parameter.shape[1]
        copy(parameter, loaded[:, tp_rank() * size : (tp_rank() + 1) * size])

    def load_bias(self, parameter: Any, loaded: Tensor) -> None:
        """The bias is added once: by rank 0, the others hold zeros."""
        copy(parameter, loaded if tp_rank() == 0 else torch.zeros_like(loaded))

    def forward(self, x: Tensor) -> Tensor:
        return all_reduce(self.matmul(x))


def part_of_rank(loaded: Tensor, size: int, rank: int) -> Tensor:
    """Rows [rank × size, (rank + 1) × size) of a checkpoint's tensor."""
    return loaded[rank * size : (rank + 1) * size]


def copy(parameter: Any, loaded: Tensor) -> None:
    """Copies `loaded` into a parameter of the same shape, converting its dtype."""
    if tuple(parameter.shape) != tuple(loaded.shape):
        raise MedvllmError(
            f"a weight of shape {tuple(parameter.shape)} was expected, got {tuple(loaded.shape)}; "
            "the checkpoint and its config.json do not belong together"
        )
    parameter.data.copy_(loaded)
