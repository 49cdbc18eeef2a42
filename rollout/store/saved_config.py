"""`.hydra/config.yaml`: the config that a run folder keeps, resolved, for resume, replay and verify."""

import dataclasses
from pathlib import Path

from rollout.config import RunConfig, yaml_texts
from rollout.engine import models
from rollout.files import replacing, user_path
from rollout.store.layout import CONFIG


def save(run: RunConfig, run_dir: Path) -> None:
    """Write the config with absolute paths: it must mean the same from another folder.

    The path of an input in the run's own folder is relative to that, which may be moved.
    """
    path = None if run.data.path is None else _from_anywhere(user_path(run.data.path).absolute(), run_dir.absolute())
    data = dataclasses.replace(run.data, path=path)
    model, output = models.with_absolute_paths(run.model), run.output and str(user_path(run.output).absolute())
    values = dataclasses.asdict(dataclasses.replace(run, data=data, model=model, output=output))
    (run_dir / CONFIG).parent.mkdir(exist_ok=True)
    with replacing(run_dir / CONFIG) as partial:
        partial.write_text(yaml_texts.dump(values), encoding="utf-8")


def _from_anywhere(path: Path, run_dir: Path) -> str:
    return str(path.relative_to(run_dir) if path.is_relative_to(run_dir) else path)
