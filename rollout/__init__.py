"""Sample many responses per prompt with vLLM; lose nothing, repeat everything.

From Python: `rollout.run("sampling.n_samples=4", input=frame)` does a run and returns it, `rollout.open_run(folder)`
opens one that is there, `rollout.release()` ends the engine that stays loaded between them; see docs/python.md.

Data flows one way: prompts -> generation (engine) -> store -> postprocess -> pages. `lifecycle.py` is the table of
contents.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Run", "UserError", "open_run", "release", "run"]

if TYPE_CHECKING:
    from rollout.api.calls import open_run, release, run
    from rollout.api.run_folder import Run
    from rollout.errors import UserError
else:
    _HOMES = {
        **dict.fromkeys(("run", "open_run", "release"), "rollout.api.calls"),
        "Run": "rollout.api.run_folder",
        "UserError": "rollout.errors",
    }

    def __getattr__(name):
        """What is offered, imported when it is first used: a command needs none of it."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)

    def __dir__():
        return sorted({*globals(), *__all__})
