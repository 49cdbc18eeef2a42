"""Sample many responses per prompt with vLLM; lose nothing, repeat everything.

Data flows one way: prompts -> generate (engine) -> store -> finalize -> postprocess. `lifecycle.py` is the table of contents.
"""

__version__ = "0.1.0"
