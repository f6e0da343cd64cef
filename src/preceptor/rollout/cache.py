"""A key-value cache made once: one tensor per layer for keys, one for values, written in place.

A row's tokens may stand at any columns, with gaps; which columns a row may look at is the batch's mask. All rows write
their next token at the same column, so a step needs no scatter.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

STEP = 16  # columns


class SlotLayer(CacheLayerMixin):
    """Keys and values [rows, heads, columns, head width] of one layer. Where the cache is `turned`, the columns of a
    head's keys stand together in memory."""

    is_sliding = False

    def __init__(self, cache: "SlotCache"):
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = self._empty(key_states, self.cache.turned)
        self.values = self._empty(value_states)
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True

    def _empty(self, states: Tensor, turned: bool = False) -> Tensor:
        rows, (_, heads, _, width), columns = self.cache.rows, states.shape, self.cache.columns
        if turned:
            return states.new_zeros(rows, heads, width, columns).transpose(2, 3)
        return states.new_zeros(rows, heads, columns, width)

    def grow(self) -> None:
        """As many columns as the cache has by now."""
        for name, turned in (("keys", self.cache.turned), ("values", False)):
            old = getattr(self, name)
            new = self._empty(old, turned)
            new[:, :, : old.shape[2]] = old
            setattr(self, name, new)

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Write one step's or one prefill's states at the cache's place; return all columns up to its end."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, new = self.cache.column, key_states.shape[2]
        rows = self.cache.active
        self.keys[:rows, :, start : start + new] = key_states
        self.values[:rows, :, start : start + new] = value_states
        end = self.cache.end(new)
        return self.keys[:rows, :, :end], self.values[:rows, :, :end]

    def get_seq_length(self) -> int:
        return self.cache.column

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.column + query_length, 0

    def get_max_length(self) -> int:
        return self.cache.columns


class SlotCache(Cache):
    """`layers` layers of room for `rows` rows of `columns` tokens; rows 0..active-1 are in use. `turned`: see
    `SlotLayer`; `attention.attend` decodes fast with it."""

    def __init__(self, layers: int, rows: int, columns: int, turned: bool = False):
        self.rows, self.columns, self.turned = rows, columns, turned
        self.column = 0
        self.active = 0
        super().__init__(layers=[SlotLayer(self) for _ in range(layers)])

    def end(self, new: int) -> int:
        """How many columns a step of `new` tokens looks at. A turned cache gives a few more than there are, of which
        the mask must hide those that no token has written: so the products of matrices have few shapes."""
        end = self.column + new
        return min(end + -end % STEP, self.columns) if self.turned else end

    def keep(self, rows: Tensor) -> None:
        """Row i becomes what stood at rows[i]; the others are free. Rows that stay where they are are not touched."""
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        source = rows[moved]
        for layer in self.layers:
            layer.keys[moved, :, : self.column] = layer.keys[source, :, : self.column]
            layer.values[moved, :, : self.column] = layer.values[source, :, : self.column]
        self.active = len(rows)

    def put(self, states: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Add rows behind the active ones: of each layer their first columns of keys and values [rows, heads, columns,
        head width]."""
        first = self.active
        for layer, (keys, values) in zip(self.layers, states):
            if not layer.is_initialized:
                layer.lazy_initialization(keys, values)
            end, width = first + len(keys), keys.shape[2]
            layer.keys[first:end, :, :width] = keys
            layer.values[first:end, :, :width] = values
            self.active = end

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
                layer.grow()


def states_of(cache: Cache) -> list[tuple[Tensor, Tensor]]:
    """The keys and values of a prefill, layer by layer."""
    return [(layer.keys, layer.values) for layer in cache.layers]


def column_mask(lengths: Tensor, width: int) -> Tensor:
    """[R, width]: True at a row's first `lengths` columns."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]
