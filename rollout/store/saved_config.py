"""`.hydra/config.yaml`: the config that a run folder keeps, resolved, for resume, replay and verify."""

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from rollout.config import RunConfig
from rollout.engine import models
from rollout.files import replacing
from rollout.store.layout import CONFIG


def save(run: RunConfig, run_dir: Path) -> None:
    """Write the config with absolute paths: it must mean the same from another folder."""
    path = None if run.data.path is None else str(Path(run.data.path).expanduser().absolute())
    data, model = dataclasses.replace(run.data, path=path), models.with_absolute_paths(run.model)
    values = dataclasses.asdict(dataclasses.replace(run, data=data, model=model))
    (run_dir / CONFIG).parent.mkdir(exist_ok=True)
    with replacing(run_dir / CONFIG) as partial:
        partial.write_text(_yaml(values), encoding="utf-8")


def _yaml(values: Any) -> str:
    """Text as it is where YAML reads it back so; PyYAML does not escape every character that its reader folds."""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return text if yaml.safe_load(text) == values else yaml.safe_dump(values, sort_keys=False)
