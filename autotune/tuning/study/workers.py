"""The workers of a shared study: what each says of itself, again and again, while it lives."""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from autotune.tuning.study.server import Server

_WORKER = "worker:"
_LAST_BEAT_S = 5.0  # As long a heartbeat that is under way is waited for.


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a machine's own verification showed of a winner."""

    params: Mapping[str, Any]
    verdict: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One process of one machine that works on a study, as it says it itself."""

    id: str
    host: str
    pid: int
    machine: str = ""  # In words.
    began_at: float = 0.0  # Seconds since the epoch, by its own clock.
    seen_at: float = 0.0
    state: str = "working"  # working, verifying, finished, interrupted, failed.
    holding: Holding | None = None

    @staticmethod
    def here(machine: str = "") -> "Worker":
        """This process."""
        host, pid, now = socket.gethostname(), os.getpid(), time.time()
        name = f"{host}-{pid}-{uuid.uuid4().hex[:6]}"
        return Worker(id=name, host=host, pid=pid, machine=machine, began_at=now, seen_at=now)


def workers_of(attributes: Mapping[str, Any]) -> list[Worker]:
    """Every worker that a study knows of, in the order in which they came."""
    found = []
    for key, kept in attributes.items():
        if key.startswith(_WORKER):
            holding = kept.get("holding")
            found.append(Worker(**{**kept, "holding": Holding(**holding) if holding else None}))
    return sorted(found, key=lambda worker: (worker.began_at, worker.id))


class Presence:
    """What this worker says of itself, in words at every change, and that it lives."""

    def __init__(
        self, server: Server, study_id: int, me: Worker, *, beat: Callable[[], None]
    ) -> None:
        self.me = me
        self._server = server
        self._study_id = study_id
        self._also = beat  # What else is to be told at every beat.
        self._saying = threading.Lock()
        self._ended = threading.Event()
        self._pulse = threading.Thread(target=self._beat, name="lcm's heartbeat", daemon=True)
        self.now(me.state)
        if server.has_heartbeats:
            self._pulse.start()

    def now(self, state: str, holding: Holding | None = None) -> None:
        """Say how far this worker is."""
        self.me = replace(self.me, state=state, holding=holding or self.me.holding)
        self._server.do(self._write)

    def end(self) -> None:
        """Say nothing more."""
        self._ended.set()
        if self._pulse.is_alive():
            self._pulse.join(_LAST_BEAT_S)

    def _write(self) -> None:
        with self._saying:  # Or a heartbeat could say last what was so when it began.
            kept = {**asdict(self.me), "seen_at": time.time()}
            self._server.storage.set_study_user_attr(self._study_id, _WORKER + self.me.id, kept)

    def _beat(self) -> None:
        while not self._ended.wait(self._server.pulse.interval_s):
            self._also()
            self._server.try_once(self._write)
        self._server.leave_thread()


class Silence:
    """For how long each worker has said nothing new, by the clock of this machine."""

    def __init__(self) -> None:
        # What each said last of when it was seen, and since when it has said nothing else.
        self._seen: dict[str, tuple[float, float]] = {}

    def look(self, attributes: Mapping[str, Any], now_s: float) -> None:
        """Hear what all say now."""
        for worker in workers_of(attributes):
            said, _ = self._seen.get(worker.id, (None, now_s))
            if said != worker.seen_at:
                self._seen[worker.id] = worker.seen_at, now_s

    def of(self, worker_id: str, now_s: float) -> float:
        """Seconds; none of one that was never heard of."""
        _, since_s = self._seen.get(worker_id, (0.0, now_s))
        return now_s - since_s
