"""The adaptations that are in memory, and in the bank: so many at most, the least used let go."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable

from sapwood.errors import ResourceError
from sapwood.methods.bank import Bank
from sapwood.pool.resident import Resident

_PATIENCE = 60.0  # seconds that an adaptation may be waited for to be idle


class Memory:
    """At most `limit` adaptations; one that requests use stays.

    `between_steps` runs a change of the bank while no step of the batch does, and returns when it
    is made.
    """

    def __init__(
        self, bank: Bank | None, limit: int, between_steps: Callable[[Callable[[], None]], None]
    ) -> None:
        self.bank, self.limit, self._between_steps = bank, limit, between_steps
        self._cond, self._admitting = threading.Condition(), threading.Lock()
        self._here: OrderedDict[str, Resident] = OrderedDict()  # by key, the last used at the end
        self._users: Counter[str] = Counter()
        self._leaving: set[str] = set()

    def all(self) -> tuple[Resident, ...]:
        """Return what is here."""
        with self._cond:
            return tuple(self._here.values())

    def get(self, key: str) -> Resident | None:
        """Return what is here under a key, or None."""
        return self._here.get(key)

    def hold(self, key: str) -> Resident | None:
        """Return what is here under a key, kept until `let_go`, or None.

        What is to leave is waited for to be gone: it could not leave while it is asked for.
        """
        with self._cond:
            self._cond.wait_for(lambda: key not in self._leaving)
            found = self._here.get(key)
            if found is not None:
                self._users[key] += 1
                self._here.move_to_end(key)
            return found

    def let_go(self, resident: Resident | None) -> None:
        """Say that a request no longer needs what `hold` returned."""
        if resident is not None:
            with self._cond:
                self._users[resident.key] -= 1
                self._cond.notify_all()

    def admit(self, resident: Resident) -> None:
        """Take an adaptation into memory, in the place of another where there is none free.

        It is found there only once the bank has it.
        """
        bank, method, made = self.bank, resident.method, resident.made
        with self._admitting:
            with self._cond:
                if resident.key in self._here:
                    return
                leaving = self._make_room()
            if bank is not None:
                coming = {} if method is None or not made else {resident.key: (method, made)}
                self._between_steps(bank.changed(coming, leaving))
            with self._cond:
                self._here[resident.key] = resident

    def _make_room(self) -> list[str]:
        """Forget what is not used beyond the limit, waiting for it; return the keys."""
        leaving = []
        while len(self._here) >= self.limit:
            # one that is in use takes no more requests from now on, so that it will be idle
            chosen = next((k for k in self._here if not self._users[k]), next(iter(self._here)))
            self._leaving.add(chosen)
            idle = self._cond.wait_for(lambda key=chosen: not self._users[key], _PATIENCE)  # type: ignore[misc]
            self._leaving.discard(chosen)
            if idle:
                del self._here[chosen], self._users[chosen]
                leaving.append(chosen)
            self._cond.notify_all()
            if not idle:
                raise ResourceError(
                    "E-RESOURCE-072",
                    f"All {self.limit} adaptations that may be in memory are in use.",
                    fix="a larger --resident, or fewer requests at once",
                )
        return leaving
