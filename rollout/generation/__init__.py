"""The generation stage: prompts in, samples out, the engine never waiting."""
