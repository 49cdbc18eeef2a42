"""Sample many responses per prompt with vLLM; lose nothing, repeat everything.

Data flows one way: prompts -> generation (engine) -> store -> postprocess -> pages. `lifecycle.py` is the table of
contents.
"""

__version__ = "0.1.0"
