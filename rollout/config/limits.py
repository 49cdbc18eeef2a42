"""Fields with limits, and whether a value is within them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from typing import Any


def limited(default: Any, **limits: Any) -> Any:
    """A field with limits: `ge`, `gt`, `le`, `lt` bound a number; `choices` lists the words allowed, and `elsewhere`
    has what other programs call them; `escapes` marks a text in which `rollout.config.arguments` reads backslash
    sequences; `hint` is what it says of a key that must be given.
    """
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=limits)
    return field(default=default, metadata=limits)


_BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "ge": (lambda value, bound: value >= bound, "at least"),
    "gt": (lambda value, bound: value > bound, "more than"),
    "le": (lambda value, bound: value <= bound, "at most"),
    "lt": (lambda value, bound: value < bound, "less than"),
}


def in_words(limits: Mapping[str, Any]) -> str:
    """The bounds among the `limits` of a field, as in: at least 0 and at most 1."""
    return " and ".join(f"{words} {limits[name]}" for name, (_, words) in _BOUNDS.items() if name in limits)


def value_problems(key: str, value: Any, limits: Mapping[str, Any]) -> Iterator[str]:
    """Why `value` is not within the `limits` of a field; None is always valid."""
    if value is None:
        return
    bounds = [name for name in _BOUNDS if name in limits]
    if not all(_BOUNDS[name][0](value, limits[name]) for name in bounds):  # NaN fails every comparison
        yield f"{key}={value}: must be {in_words(limits)}"
    for word in value if isinstance(value, list) else [value]:
        if "choices" in limits and word not in limits["choices"]:
            here = limits.get("elsewhere", {}).get(word)
            meant = "" if here is None else f"; {word} is {here} here"
            yield f"{key}={word}: choose from {', '.join(limits['choices'])}{meant}"
