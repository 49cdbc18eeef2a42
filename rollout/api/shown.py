"""An analysis and a comparison as a program has them: values, which show themselves as the tables of the command."""

from collections.abc import Callable
from dataclasses import dataclass, field
from io import StringIO

from rich.console import Console

from rollout.compare.comparison import Comparison
from rollout.compare.screen import show_comparison
from rollout.postprocess.analyze import Analysis
from rollout.terminal.summary import show_analysis

_WIDTH = 120


@dataclass(frozen=True, repr=False)
class ShownAnalysis(Analysis):
    """The content of analysis.json."""

    def __repr__(self) -> str:
        return _as_text(lambda console: show_analysis(console, self))


@dataclass(frozen=True, repr=False)
class ShownComparison(Comparison):
    """The content of compare.json, and what a reader has to know beside it."""

    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return _as_text(lambda console: show_comparison(console, self, self.notes))


def _as_text(show: Callable[[Console], None]) -> str:
    """What `show` prints on a console without colours."""
    with StringIO() as text:
        show(Console(file=text, width=_WIDTH, color_system=None, highlight=False, force_jupyter=False))
        return "\n".join(line.rstrip() for line in text.getvalue().strip().splitlines())
