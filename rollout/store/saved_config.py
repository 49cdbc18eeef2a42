"""`.hydra/config.yaml`: the config that a run folder keeps, resolved, for resume, replay and verify."""

import dataclasses
from pathlib import Path

from rollout.config import RunConfig, yaml_texts
from rollout.engine import models
from rollout.files import replacing, user_path
from rollout.store.layout import CONFIG


def save(run: RunConfig, run_dir: Path) -> None:
    """Write the config with absolute paths: it must mean the same from another folder."""
    data = dataclasses.replace(run.data, path=_absolute(run.data.path))
    model, output = models.with_absolute_paths(run.model), _absolute(run.output)
    values = dataclasses.asdict(dataclasses.replace(run, data=data, model=model, output=output))
    (run_dir / CONFIG).parent.mkdir(exist_ok=True)
    with replacing(run_dir / CONFIG) as partial:
        partial.write_text(yaml_texts.dump(values), encoding="utf-8")


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(user_path(path).absolute())
