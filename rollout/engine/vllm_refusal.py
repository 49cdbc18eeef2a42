"""Why vLLM refuses something, in its own words."""

import re

_PLACE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")
"""The prefix of a C++ library's message. The time in it would make the errors of two equal runs differ."""


def refusal(error: Exception) -> str:
    """The reason in vLLM's words, after the type of the error unless it is one that vLLM raises with a reason.

    That is ValueError up to 0.26, and VLLMValidationError since.
    """
    is_said = isinstance(error, ValueError) or type(error).__name__ == "VLLMValidationError"
    text = _PLACE.sub("", str(error)).strip()
    return text if is_said else f"{type(error).__name__}: {text}"
