"""One mutant: a named, documented, reversible change of what production does.

A mutant replaces a method or a function of production in this process, mostly by one that calls the original
with something left out or changed; there is no copy of production in it. So it breaks when what it replaces
moves, and it has to say so instead of passing for harmless: :meth:`Patch.original` refuses by name a seam
that is gone, and every replacement must take the parameters that the original takes.

Mutation testing is DeMillo, Lipton and Sayward, "Hints on Test Data Selection", IEEE Computer 1978. These are
placed by hand, because what interests is the protocol: each is a mistake that somebody could make in it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

ROOTS = ("consensus", "executor", "mcp", "simulations")
"""Whose modules may have imported a function by name."""


class SeamGone(Exception):
    """What a mutant replaces is not there any more, or not as it was: the mutant has to be placed anew."""


class Patch:
    """What one mutant changes, and how it was before."""

    def __init__(self, mutant: str) -> None:
        self._mutant = mutant
        self._before: list[tuple[Any, str, Any]] = []

    def original(self, owner: type | ModuleType, name: str) -> Any:
        """What ``owner`` itself defines as ``name``. Raises :class:`SeamGone`."""
        if name not in vars(owner):
            raise SeamGone(
                f"mutant {self._mutant}: {owner.__name__} does not define {name} any more; look where that "
                "went, and place the mutant there"
            )
        return vars(owner)[name]

    def method(self, owner: type, name: str, replacement: Callable[..., Any]) -> None:
        """Replace a method. Raises :class:`SeamGone`."""
        original = self.original(owner, name)
        self._compare(f"{owner.__name__}.{name}", original, replacement)
        self._set(owner, name, replacement)

    def value(self, owner: type, name: str, value: Callable[[Any], Any]) -> None:
        """Replace a property by ``value(self)``. Raises :class:`SeamGone`."""
        if not isinstance(self.original(owner, name), property):
            raise SeamGone(f"mutant {self._mutant}: {owner.__name__}.{name} is no property any more")
        self._set(owner, name, property(value))

    def function(self, module: ModuleType, name: str, replacement: Callable[..., Any]) -> None:
        """Replace a function in its module, and wherever it was imported. Raises :class:`SeamGone`."""
        original = self.original(module, name)
        self._compare(f"{module.__name__}.{name}", original, replacement)
        for holder in [m for n, m in sys.modules.items() if n.partition(".")[0] in ROOTS]:
            for alias, held in list(vars(holder).items()):
                if held is original:
                    self._set(holder, alias, replacement)

    def undo(self) -> None:
        """Put everything back."""
        while self._before:
            setattr(*self._before.pop())

    def _set(self, owner: Any, name: str, replacement: Any) -> None:
        self._before.append((owner, name, vars(owner)[name]))
        setattr(owner, name, replacement)

    def _compare(self, what: str, original: Any, replacement: Any) -> None:
        if not callable(original):
            raise SeamGone(f"mutant {self._mutant}: {what} cannot be called any more")
        try:
            expected = _parameters(original)
        except ValueError:  # a function of a compiled module does not say
            return
        if expected != _parameters(replacement):
            raise SeamGone(
                f"mutant {self._mutant}: {what} takes ({', '.join(expected)}) now, and its replacement "
                f"({', '.join(_parameters(replacement))}); place the mutant anew"
            )


def _parameters(function: Callable[..., Any]) -> list[str]:
    """The names, without the underscore of those that a replacement does not use."""
    return [name.lstrip("_") for name in inspect.signature(function).parameters]


@dataclass(frozen=True, slots=True)
class Mutant:
    """``place`` makes the change. ``level`` is the lowest at which it can show.

    ``survives`` is given for one that need not be caught, and says why.
    """

    name: str
    group: str
    level: str
    what: str
    place: Callable[[Patch], None]
    survives: str | None = None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Production with this mistake, for a while. Raises :class:`SeamGone`."""
        patch = Patch(self.name)
        try:
            self.place(patch)
            yield
        finally:
            patch.undo()


Placed = Callable[[Patch], None]


class Group:
    """The mutants of one part of the protocol, in the order of the file that places them."""

    def __init__(self, name: str, *, level: str = "engine") -> None:
        self.name = name
        self.mutants: list[Mutant] = []
        self._level = level

    def mutant(self, *, level: str | None = None, survives: str | None = None) -> Callable[[Placed], Placed]:
        """Make a function that places a mutant one: its name and its docstring are the mutant's."""

        def add(place: Placed) -> Placed:
            name = place.__name__.replace("_", "-")
            what = " ".join((place.__doc__ or "").split())
            self.mutants.append(Mutant(name, self.name, level or self._level, what, place, survives))
            return place

        return add
