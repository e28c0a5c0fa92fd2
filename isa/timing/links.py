"""Links between devices: which of them a transfer takes, and when it can start.

A transfer takes every link of its way at once, for as long as it occupies its engines; it never holds one
while it waits for another. The receiver says that it is ready, and that travels to the sender: so a transfer
starts no sooner than its receiver's readiness has come all the way. What has been ready longest comes first,
of two the one of the lower sending device.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from isa.spec import Transfer
from isa.support.records import Frozen, Struct, field
from isa.target import Network

Route = tuple[tuple[int, int], ...]
"""The links of a way: from a device to another that it is linked with."""


def route(net: Network, devices: int, source: int, destination: int) -> Route:
    """The way of a transfer.

    Of a ring the shorter one, upward where both are equally long; of a mesh along the row, then the column.
    """
    if net.topology == "full":
        return ((source, destination),)
    if net.topology == "ring":
        up = (destination - source) % devices
        step = 1 if 2 * up <= devices else -1
        stops = [(source + step * n) % devices for n in range(min(up, devices - up) + 1)]
    else:
        row, column = divmod(source, net.cols)
        last_row, last_column = divmod(destination, net.cols)
        across = 1 if last_column > column else -1
        down = 1 if last_row > row else -1
        stops = [row * net.cols + c for c in range(column, last_column, across)]
        stops += [r * net.cols + last_column for r in range(row, last_row, down)]
        stops.append(destination)
    return tuple(itertools.pairwise(stops))


class Offer(Frozen):
    """A side of a transfer that is ready.

    `start` is told when, for how many cycles, with which latency, and when the other side could have;
    `look_again` when the links have to be looked at once more.
    """

    device: int
    other: int
    transfer: Transfer
    cycles: int
    since: int
    start: Callable[[int, int, int, int], None]
    look_again: Callable[[int], None]


class _Waiting(Struct):
    """A transfer of which both sides are ready."""

    send: Offer
    receive: Offer
    way: Route
    earliest: int
    latency: int

    @property
    def order(self) -> tuple[int, int]:
        """Who comes first."""
        return self.earliest, self.send.device


class Links(Struct):
    """The links of all devices, and the transfers that wait for them."""

    net: Network
    devices: int
    route_of: dict[tuple[int, int], Route] = field(default_factory=dict[tuple[int, int], Route])
    free: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    """When each link is free again."""
    sides: dict[tuple[int, int, int, bool], Offer] = field(
        default_factory=dict[tuple[int, int, int, bool], Offer]
    )
    """Sides that are ready and whose other side is not: by sender, receiver, channel, and which it is."""
    waiting: list[_Waiting] = field(default_factory=list[_Waiting])

    def way(self, source: int, destination: int) -> Route:
        """The way from a device to another."""
        if (source, destination) not in self.route_of:
            self.route_of[source, destination] = route(self.net, self.devices, source, destination)
        return self.route_of[source, destination]

    def offer(self, side: Offer) -> None:
        """A side has become ready."""
        sends = side.transfer.sends
        ends = (side.device, side.other) if sends else (side.other, side.device)
        channel = side.transfer.channel
        other = self.sides.pop((*ends, channel, not sends), None)
        if other is None:
            self.sides[*ends, channel, sends] = side
            return
        send, receive = (side, other) if sends else (other, side)
        way = self.way(*ends)
        latency = self.net.latency * len(way)
        earliest = max(send.since, receive.since + latency)
        self.waiting.append(_Waiting(send, receive, way, earliest, latency))
        send.look_again(earliest)

    def start(self, now: int) -> list[int]:
        """Start what can start; the devices that something has started on."""
        started: list[int] = []
        for each in sorted(self.waiting, key=lambda w: w.order):
            if each.earliest > now:
                break
            free = max(self.free.get(link, 0) for link in each.way)
            if free > now:
                each.send.look_again(free)
                continue
            self.waiting.remove(each)
            cycles = max(each.send.cycles, each.receive.cycles)
            for link in each.way:
                self.free[link] = now + cycles
            each.send.start(now, cycles, each.latency, each.receive.since + each.latency)
            each.receive.start(now, cycles, each.latency, each.send.since)
            started += [each.send.device, each.receive.device]
        return started
