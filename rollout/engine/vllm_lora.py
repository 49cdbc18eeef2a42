"""The adapters that one vLLM engine has been given, each under a number of its own."""

from typing import Any

from vllm.lora.request import LoRARequest

from rollout.engine.content import stamps
from rollout.engine.vllm_refusal import refusal
from rollout.errors import UserError
from rollout.files import user_path


class LoadedAdapters:
    """What tells adapters apart for vLLM, whose prefix cache and memory of adapters go by name and number.

    A folder whose files are others now is another adapter.
    """

    def __init__(self) -> None:
        self._requests = dict[tuple[object, ...], LoRARequest]()

    def ready(self, folder: str, engine: Any) -> LoRARequest:
        """The adapter in `folder`, which `engine` (vLLM's) has read. Raises UserError where it refuses it."""
        path = user_path(folder).absolute()
        key = (path, *stamps(str(path)))
        request = self._requests.get(key)
        if request is None:
            number = len(self._requests) + 1
            request = LoRARequest(f"{path.name}-{number}", number, str(path))
            try:
                engine.add_lora(request)
            except Exception as error:  # whatever it says is about this adapter
                raise UserError(f"model.lora={folder}: vLLM refuses it: {refusal(error)}; give another one") from error
            self._requests[key] = request
        return request
