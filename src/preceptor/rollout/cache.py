"""A key-value cache made once: one tensor per layer for keys, one for values, written in place.

A row's tokens may stand at any columns, with gaps; which columns a row may look at is the batch's mask. All rows write
their next token at the same column, so a step needs no scatter.
"""

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class SlotLayer(CacheLayerMixin):
    """Keys and values [rows, heads, columns, head width] of one layer."""

    is_sliding = False

    def __init__(self, cache: "SlotCache"):
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, columns, dtype = self.cache.rows, self.cache.columns, self.cache.dtype or key_states.dtype
        self.keys = key_states.new_zeros(rows, key_states.shape[1], columns, key_states.shape[3], dtype=dtype)
        self.values = value_states.new_zeros(rows, value_states.shape[1], columns, value_states.shape[3], dtype=dtype)
        self.dtype, self.device, self.is_initialized = dtype, key_states.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Write one step's or one prefill's states at the cache's place; return all columns up to its end."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, new = self.cache.column, key_states.shape[2]
        rows = self.cache.active
        self.keys[:rows, :, start : start + new] = key_states
        self.values[:rows, :, start : start + new] = value_states
        return self.keys[:rows, :, : start + new], self.values[:rows, :, : start + new]

    def get_seq_length(self) -> int:
        return self.cache.column

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.column + query_length, 0

    def get_max_length(self) -> int:
        return self.cache.columns


class SlotCache(Cache):
    """`layers` layers of room for `rows` rows of `columns` tokens; rows 0..active-1 are in use. `dtype`: of keys and
    values; the model's own when None."""

    def __init__(self, layers: int, rows: int, columns: int, dtype: torch.dtype | None = None):
        self.rows, self.columns, self.dtype = rows, columns, dtype
        self.column = 0
        self.active = 0
        super().__init__(layers=[SlotLayer(self) for _ in range(layers)])

    def keep(self, rows: Tensor) -> None:
        """Move the rows at places `rows` to the front, in that order; the others are free."""
        for layer in self.layers:
            layer.keys[: len(rows), :, : self.column] = layer.keys[rows, :, : self.column]
            layer.values[: len(rows), :, : self.column] = layer.values[rows, :, : self.column]
        self.active = len(rows)

    def put(self, states: list[tuple[Tensor, Tensor]], lengths_from: Tensor) -> None:
        """Add rows behind the active ones: row i gets the prefilled columns of row `lengths_from[i]` of `states`."""
        first, count = self.active, len(lengths_from)
        for layer, (keys, values) in zip(self.layers, states):
            if not layer.is_initialized:
                layer.lazy_initialization(keys, values)
            layer.keys[first : first + count, :, : keys.shape[2]] = keys[lengths_from]
            layer.values[first : first + count, :, : values.shape[2]] = values[lengths_from]
        self.active = first + count

    def gather_columns(self, order: Tensor) -> None:
        """Column j of row r becomes what stood at order[r, j]: closes the gaps that left and joined rows made."""
        width = order.shape[1]
        for layer in self.layers:
            index = order[:, None, :, None].expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3])
            layer.keys[: self.active, :, :width] = layer.keys[: self.active].gather(2, index)
            index = order[:, None, :, None].expand(-1, layer.values.shape[1], -1, layer.values.shape[3])
            layer.values[: self.active, :, :width] = layer.values[: self.active].gather(2, index)

    def grow(self, columns: int) -> None:
        """Room for at least `columns` columns."""
        if columns <= self.columns:
            return
        self.columns = max(columns, self.columns * 3 // 2)
        for layer in self.layers:
            if layer.is_initialized:
                for name in ("keys", "values"):
                    old = getattr(layer, name)
                    new = old.new_zeros(old.shape[0], old.shape[1], self.columns, old.shape[3])
                    new[:, :, : old.shape[2]] = old
                    setattr(layer, name, new)


def states_of(cache: Cache) -> list[tuple[Tensor, Tensor]]:
    """The keys and values of a prefill, layer by layer."""
    return [(layer.keys, layer.values) for layer in cache.layers]


def column_mask(lengths: Tensor, width: int) -> Tensor:
    """[R, width]: True at a row's first `lengths` columns."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]
