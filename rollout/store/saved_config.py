"""`.hydra/config.yaml`: the config that a run folder keeps, resolved, for resume, replay and verify."""

import dataclasses
from pathlib import Path

from rollout.config import RunConfig, yaml_texts
from rollout.engine import models
from rollout.files import replacing, user_path
from rollout.store.layout import CONFIG


def save(run: RunConfig, run_dir: Path) -> None:
    """Write the config with absolute paths: it must mean the same from another folder."""
    path = None if run.data.path is None else str(user_path(run.data.path).absolute())
    data, model = dataclasses.replace(run.data, path=path), models.with_absolute_paths(run.model)
    values = dataclasses.asdict(dataclasses.replace(run, data=data, model=model))
    (run_dir / CONFIG).parent.mkdir(exist_ok=True)
    with replacing(run_dir / CONFIG) as partial:
        partial.write_text(yaml_texts.dump(values), encoding="utf-8")
