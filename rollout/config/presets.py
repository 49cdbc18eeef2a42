"""Where the presets are."""

from pathlib import Path


def conf_dir() -> str:
    """The folder of presets, absolute: `conf/` in a checkout, `rollout/conf/` in an installed wheel."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "conf"
    return str(installed if installed.is_dir() else package.parent / "conf")
