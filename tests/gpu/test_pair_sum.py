"""The kernel with which two GPUs add their tensors, against vLLM's."""

from pathlib import Path

import pytest

from tests.engine.test_pair_sum import what_both_find
from tests.gpu.conftest import needs_two_gpus

pytestmark = [pytest.mark.gpu, needs_two_gpus]


def test_two_gpus_get_what_vllms_kernel_gives_also_if_one_is_late(tmp_path: Path) -> None:
    expected = {"put": True, "unequal": 0, "wrong put": False, "left": True}
    assert what_both_find(tmp_path, "cuda") == [expected, expected]
