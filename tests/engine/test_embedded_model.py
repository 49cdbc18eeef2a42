"""The model that comes with the program."""

from pathlib import Path

import pytest

from rollout.engine import models


@pytest.mark.slow
def test_its_files_do_not_depend_on_whether_the_hub_may_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = models._packed_file()
    assert packed is not None
    written = []
    for offline in (False, True):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        with models._read_once():
            models._save_tokenizer(packed, folder := tmp_path / str(offline))
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
