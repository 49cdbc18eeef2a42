"""What can go wrong, by who has to act.

    UserError      a mistake in the command or the input: one line per problem, exit code 1, no traceback
    PromptError    one row that cannot be sampled: it becomes samples with an `error`, and the run continues
    EngineDied     the engine is gone: it is started again, and the run continues from its journal

Everything else is a bug or a machine's fault and keeps its traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake the user can cure. `problems` holds one line each: the key, its value, the cure."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, ...]]:
        """Between processes the lines stay apart."""
        return type(self), self.problems

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback: a command ends with these lines, too."""
        return [f"error: {problem}" for problem in self.problems]


class PromptError(Exception):
    """Why one row cannot be sampled, in words for its `error` column."""


class EngineDied(Exception):
    """The engine ended by itself. What it had handed over is kept."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error line about an unknown `name`: the nearest known names, or all of them."""
    names = sorted(known)
    near = nearest(name, names) or _close(name, names, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(names)}"


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The one or two of `known` that `name` is most likely a slip for."""
    return _close(name, sorted(known), n=2, cutoff=0.8)


def _close(name: str, names: list[str], n: int, cutoff: float) -> list[str]:
    """As `get_close_matches`, behind the shortest that begin with it, if few. The group that a key shares with all of
    `names` makes none of them closer.
    """
    group = name[: name.rfind(".") + 1]
    while not all(known.startswith(group) for known in names):
        group = group[: group.rstrip(".").rfind(".") + 1]
    word, words = name.removeprefix(group), [known.removeprefix(group) for known in names]
    longer = [known for known in words if len(word) > 2 and known.startswith(word)]
    begun = [known for known in longer if len(known) == min(map(len, longer))]
    close = [*begun * (len(begun) <= n), *get_close_matches(word, words, n, cutoff)]
    return [group + known for known in dict.fromkeys(close)][:n]
