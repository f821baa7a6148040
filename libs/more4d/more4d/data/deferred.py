"""Fields that are made when they are first asked for."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

Owner = TypeVar("Owner", bound=type)
Value = TypeVar("Value")


def deferrable(*names: str) -> Callable[[Owner], Owner]:
    """Decorates a dataclass whose fields `names` may be given as `deferred` functions in place of their values.

    The function is called when the field is first read, and its result kept; what it raises is raised there, each time.
    """

    def decorate(owner: Owner) -> Owner:
        for name in names:
            # After dataclass has run: it would take them for defaults.
            setattr(owner, name, _Field(name))
        return owner

    return decorate


def deferred(make: Callable[[], Value]) -> Value:
    """`make` itself, for a deferrable field; pickled unread it goes along: a functools.partial of a module's function."""
    return cast(Value, make)


def is_deferred(instance: object, name: str) -> bool:
    """Whether the field `name` was given as a function and not read yet."""
    return callable(vars(instance)[name])


class _Field:
    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: object | None, owner: type) -> Any:  # noqa: ANN401 - whatever the field holds
        if instance is None:
            return self
        found = vars(instance)[self._name]
        if callable(found):
            found = vars(instance)[self._name] = found()
        return found

    def __set__(self, instance: object, value: object) -> None:
        vars(instance)[self._name] = value
