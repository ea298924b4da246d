"""An LRU cache of CUDA graphs, keyed by input shape; it also decides when to record one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Shape = TypeVar("Shape", bound=Hashable)
Graph = TypeVar("Graph")


class GraphCache(Generic[Shape, Graph]):
    """An LRU cache of CUDA graphs, one for each shape.

    A shape whose recording failed is stored as None, and is not tried again.
    """

    def __init__(
        self,
        most: int | None = None,
        *,
        discard: Callable[[Graph], None] | None = None,
        calls_before: int = 0,
        evicts: bool = True,
    ) -> None:
        """Create an empty cache.

        Args:
            most: largest number of graphs; None for no limit, 0 records none.
            discard: called with each evicted graph.
            calls_before: calls of a shape that run without a graph before one is recorded.
            evicts: False if the engine cannot free a graph: once there are `most`, no other is recorded.
        """
        self._most = most
        self._discard = discard
        self._calls_before = calls_before
        self._evicts = evicts
        self._calls: dict[Shape, int] = {}
        self._graphs: OrderedDict[Shape, Graph | None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._graphs)

    def __iter__(self) -> Iterator[Shape]:
        return iter(self._graphs)

    def __contains__(self, shape: Shape) -> bool:
        return shape in self._graphs

    def get(self, shape: Shape) -> Graph | None:
        """Return a shape's graph and mark it as the most recently used; None if there is none."""
        if shape in self._graphs:
            self._graphs.move_to_end(shape)
        return self._graphs.get(shape)

    def is_due(self, shape: Shape) -> bool:
        """Count a call of a shape; return True if a graph should be recorded for it now."""
        if shape in self._graphs or self._most == 0:
            return False
        calls = self._calls.get(shape, 0)
        if calls < self._calls_before:
            self._calls[shape] = calls + 1
            return False
        return self._evicts or self._most is None or len(self._graphs) < self._most

    def __setitem__(self, shape: Shape, graph: Graph | None) -> None:
        if shape in self._graphs:
            self._give_up(self._graphs.pop(shape))
        self._graphs[shape] = graph
        while self._evicts and self._most is not None and len(self._graphs) > self._most:
            self._give_up(self._graphs.popitem(last=False)[1])

    def clear(self) -> None:
        """Discard every graph, the least recently used first."""
        while self._graphs:
            self._give_up(self._graphs.popitem(last=False)[1])

    def _give_up(self, graph: Graph | None) -> None:
        if graph is not None and self._discard is not None:
            self._discard(graph)
