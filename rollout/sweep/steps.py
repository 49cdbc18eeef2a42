"""The training step in the path of a checkpoint."""

import re
from dataclasses import dataclass

KEYS = ("model.path", "model.lora", "model.revision")
"""Keys whose values are checkpoints."""

_WORDS = ("step", "iter|iteration", "checkpoint|ckpt", "update", "epoch")
"""Words before a step. If there are several, as in `epoch=3-step=1500`, the first of these counts."""

_BY_WORD = [re.compile(rf"(?:^|[^a-z])(?:{word})s?[-_=. ]?(\d+)(k?)(?![a-z0-9])", re.IGNORECASE) for word in _WORDS]
_BARE = re.compile(r"^(\d+)(k?)$", re.IGNORECASE)


@dataclass(frozen=True)
class Step:
    """A step, and the path with `*` in its place: that of all checkpoints of one training."""

    step: int
    of: str


def step_of(path: str) -> Step | None:
    """The step in `checkpoint-1200`, `step_300`, `global_step_20/actor`, `iter_0000500`, `ckpt/800`, `step-10k`, ...

    The last part of the path with a step counts. None if there is none.
    """
    parts = path.rstrip("/").split("/")
    for at in reversed(range(len(parts))):
        for pattern in (*_BY_WORD, _BARE):
            if found := pattern.search(parts[at]):
                begin, end = found.span(1)[0], found.span(2)[1]
                named = f"{parts[at][:begin]}*{parts[at][end:]}"
                step = int(found[1]) * (1000 if found[2] else 1)
                return Step(step, "/".join([*parts[:at], named, *parts[at + 1 :]]))
    return None
