"""A graph under any edits keeps the operands it was given, and lists its nodes in an order of execution."""

from __future__ import annotations

import heapq
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.ir.graph import Graph, Node
from compiler.ir.types import DType
from compiler.ops.add import Add


class Edited:
    """A graph that is edited, and beside it what every node's operands should be."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.graph = Graph("edited")
        self.operands: dict[int, list[int]] = {}
        self.nodes: dict[int, Node] = {}
        for name in ("x", "y"):
            self._know(self.graph.input(name, DType.F32, (1, 2)), [])

    def _know(self, node: Node, operands: list[int]) -> Node:
        self.nodes[node.id], self.operands[node.id] = node, operands
        return node

    def _depends(self, node: int, on: int) -> bool:
        return node == on or any(self._depends(o, on) for o in self.operands[node])

    def _any(self, *, apart_from: int | None = None) -> int:
        free = [n for n in self.nodes if apart_from is None or not self._depends(n, apart_from)]
        return self.random.choice(free)

    def add(self, apart_from: int | None = None) -> int:
        """A sum of two values, neither of which depends on a node."""
        taken = [self._any(apart_from=apart_from), self._any(apart_from=apart_from)]
        return self._know(self.graph.add(Add(), [self.nodes[n] for n in taken]), taken).id

    @property
    def sums(self) -> list[int]:
        """The nodes that have operands."""
        return [n for n, taken in self.operands.items() if taken]

    def replace(self) -> None:
        """A new node in the place of an old one, if there is one."""
        if not self.sums:
            return
        old = self.random.choice(self.sums)
        new = self.add(apart_from=old)
        self.graph.replace(self.nodes.pop(old), self.nodes[new])
        del self.operands[old]
        for taken in self.operands.values():
            taken[:] = [new if n == old else n for n in taken]

    def set_operand(self) -> None:
        """Another operand, if a node has any."""
        if not self.sums:
            return
        node, index = self.random.choice(self.sums), self.random.randrange(2)
        value = self._any(apart_from=node)
        self.graph.set_operand(self.nodes[node], index, self.nodes[value])
        self.operands[node][index] = value

    def copy(self) -> None:
        """Go on with a copy."""
        self.graph = self.graph.copy()
        self.nodes = {n.id: n for n in self.graph.nodes()}

    def order(self) -> list[int]:
        """Of the nodes whose operands are listed the one made first, again and again."""
        waiting = {n: set(taken) for n, taken in self.operands.items()}
        ready = [n for n, taken in waiting.items() if not taken]
        heapq.heapify(ready)
        found: list[int] = []
        while ready:
            found.append(heapq.heappop(ready))
            for n, taken in waiting.items():
                if found[-1] in taken:
                    taken.remove(found[-1])
                    if not taken:
                        heapq.heappush(ready, n)
        return found


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1 << 32), st.lists(st.sampled_from(["add", "replace", "set_operand", "copy"]), max_size=24)
)
def test_operands_and_order_are_right_after_any_edits(seed: int, edits: list[str]) -> None:
    edited = Edited(Random(seed))
    for edit in edits:
        getattr(edited, edit)()
        assert [n.id for n in edited.graph.nodes()] == edited.order()
        for node in edited.graph.nodes():
            assert [o.id for o in node.inputs] == edited.operands[node.id]
            assert all(edited.graph.nodes()[edited.order().index(o.id)] is o for o in node.inputs)
