"""What is on its way between devices."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from isa.spec import Transfer, Trap, TrapError

Message = tuple[Transfer, NDArray[np.uint8]]


class Mailboxes:
    """For two devices and a channel the messages that have been sent and not received, in their order."""

    def __init__(self) -> None:
        self._messages: dict[tuple[int, int, int], deque[Message]] = {}

    def clear(self) -> None:
        """Forget what is on its way."""
        self._messages.clear()

    def put(self, source: int, destination: int, transfer: Transfer, content: NDArray[np.uint8]) -> None:
        """Let bytes leave a device; they are copied."""
        queue = self._messages.setdefault((source, destination, transfer.channel), deque())
        queue.append((transfer, content.copy()))

    def holds(self, source: int, destination: int, channel: int) -> bool:
        """Whether something has arrived."""
        return bool(self._messages.get((source, destination, channel)))

    def take(self, source: int, destination: int, transfer: Transfer) -> NDArray[np.uint8]:
        """What has arrived first.

        Raises:
            TrapError: nothing has, or its tag or number of bytes is not that of the receiver.
        """
        queue = self._messages.get((source, destination, transfer.channel))
        if not queue:
            text = f"device {source} has sent nothing on channel {transfer.channel}"
            raise TrapError(Trap.UNMATCHED, "peer", text)
        sent, content = queue.popleft()
        if (sent.tag, sent.bytes) != (transfer.tag, transfer.bytes):
            text = (
                f"device {source} sent {sent.bytes} bytes with tag {sent.tag}; "
                f"received are {transfer.bytes} with tag {transfer.tag}"
            )
            raise TrapError(Trap.UNMATCHED, "n0" if sent.tag == transfer.tag else "tag", text)
        return content
