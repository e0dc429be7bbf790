"""Objects in memory by id, by a prefix of it, and by the name that may be taken only once."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from ocishim.errors import AlreadyExists

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator


class Named(Protocol):
    """What can be indexed."""

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""

    @property
    def name_key(self) -> Hashable:
        """What no two objects may share."""


T = TypeVar("T", bound=Named)


class Index(Generic[T]):
    """An index of all objects of one kind."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._by_id: dict[str, T] = {}
        self._by_name: dict[Hashable, T] = {}
        self._ids: list[str] = []
        self._added: list[Callable[[T], None]] = []
        self._removed: list[Callable[[T], None]] = []

    def observe(self, added: Callable[[T], None], removed: Callable[[T], None]) -> None:
        """Be told of every object that comes and goes from now on, after the fact."""
        self._added.append(added)
        self._removed.append(removed)

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, item: T) -> None:
        """Enter an object. Raises AlreadyExists where its name is taken."""
        holder = self._by_name.get(item.name_key)
        if holder is not None:
            raise AlreadyExists(f"the name {item.name_key} is taken by {self._kind} {holder.id}")
        self._by_id[item.id] = item
        self._by_name[item.name_key] = item
        insort(self._ids, item.id)
        for tell in self._added:
            tell(item)

    def discard(self, item: T) -> None:
        """Forget an object and free its name."""
        if self._by_id.pop(item.id, None) is not None:
            self._by_name.pop(item.name_key, None)
            self._ids.pop(bisect_left(self._ids, item.id))
            for tell in self._removed:
                tell(item)

    def named(self, key: Hashable) -> T | None:
        """The object of that name."""
        return self._by_name.get(key)

    def find(self, prefix: str) -> T | None:
        """The object of that id or of the only id that begins so; None where none or several do."""
        exact = self._by_id.get(prefix)
        if exact is not None or not prefix:
            return exact
        position = bisect_left(self._ids, prefix)
        matches = [found for found in self._ids[position : position + 2] if found.startswith(prefix)]
        return self._by_id[matches[0]] if len(matches) == 1 else None
