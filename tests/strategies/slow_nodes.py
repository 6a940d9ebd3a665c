"""Nodes that take their time, are away or fail, on a clock that passes only while somebody sleeps."""

from flwr.app import ConfigRecord, Error, Message, RecordDict

from pharma_fl.strategies import asking, dp_fedavg, quorum, roster, secure_sum
from pharma_fl.strategies.asking import Inquiry

GONE, RAISED, CRASHED = 5, 2, 8
"""Flower's codes of a node that is not there, of an app that raised, and of one whose process died."""
LOST = None


class Clock:
    """Time that passes only while somebody sleeps, as `time` to the module that is tested."""

    def __init__(self):
        self.now, self.events = 1000.0, []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        for event in [one for one in self.events if one[0] <= self.now]:
            self.events.remove(event)
            event[1]()

    def at(self, seconds, do):
        """Let something happen after so long."""
        self.events.append((1000.0 + seconds, do))


class Nodes:
    """A grid with one list of what becomes of each successive question for every node.

    Each is `LOST`, or (seconds until something comes back, Flower's error code, an exception or nothing for a reply).
    """

    def __init__(self, clock, **fates):
        self.clock = clock
        self.fates = {int(node[1:]): list(those) for node, those in fates.items()}
        self.connected = set(self.fates)
        self.sent, self.ready = [], {}
        self.reachable = True

    def get_node_ids(self):
        return list(self.connected)

    def push_messages(self, messages):
        assert messages, "nothing to push"
        return [self._push(message) for message in messages]

    def _push(self, message):
        node, number = message.metadata.dst_node_id, f"m{len(self.sent):03d}"
        message.metadata.__dict__["_message_id"] = number
        self.sent.append((round(self.clock.now - 1000.0, 1), node, round(message.metadata.ttl, 1)))
        fate = self.fates[node].pop(0) if self.fates[node] else LOST
        if fate is not LOST:
            seconds, what = fate if isinstance(fate, tuple) else (fate, RecordDict())
            what = Error(code=what, reason="") if isinstance(what, int) else what
            if isinstance(what, RecordDict):
                what = RecordDict({"config": ConfigRecord({"question": number})})
            self.ready[number] = (self.clock.now + seconds, message, what)
        return number if self.reachable else ""

    def pull_messages(self, numbers):
        assert isinstance(numbers, list)
        due = [number for number in numbers if number in self.ready and self.ready[number][0] <= self.clock.now]
        replies = []
        for number in due:
            _, message, what = self.ready.pop(number)
            if isinstance(what, Exception):
                raise what
            replies.append(Message(what, reply_to=message))
        return replies

    def times(self, node):
        return [when for when, to, _ in self.sent if to == node]


def a_clock(monkeypatch):
    """Put a clock in the place of the time for all that waits."""
    clock = Clock()
    for module in (asking, dp_fedavg, quorum, roster, secure_sum):
        monkeypatch.setattr(module, "time", clock)
    return clock


def an_inquiry(grid, nodes, *, lifetime_s=60.0, again_s=10.0, **more):
    questions = {name: RecordDict({"config": ConfigRecord({"to": name})}) for name in ("east", "north")}
    return Inquiry(grid, nodes, "train", questions, lifetime_s=lifetime_s, again_s=again_s, **more)
