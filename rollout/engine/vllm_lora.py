"""The adapters that a vLLM engine has loaded, each with its own number."""

from typing import Any

from vllm.lora.request import LoRARequest

from rollout.engine.content import stamps
from rollout.engine.vllm_refusal import refusal
from rollout.errors import UserError
from rollout.files import user_path


class LoadedAdapters:
    """Identifies adapters for vLLM, whose prefix cache and memory of adapters use name and number.

    A folder whose files have changed is another adapter.
    """

    def __init__(self) -> None:
        self._requests = dict[tuple[object, ...], LoRARequest]()

    def ready(self, folder: str, engine: Any) -> LoRARequest:
        """The adapter in `folder`, read by `engine` (vLLM's). Raises UserError if the engine refuses it."""
        path = user_path(folder).absolute()
        key = (path, *stamps(str(path)))
        request = self._requests.get(key)
        if request is None:
            number = len(self._requests) + 1
            request = LoRARequest(f"{path.name}-{number}", number, str(path))
            try:
                engine.add_lora(request)
            except Exception as error:  # any error is about this adapter
                raise UserError(f"model.lora={folder}: vLLM refuses it: {refusal(error)}; give another one") from error
            self._requests[key] = request
        return request
