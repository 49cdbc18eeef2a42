"""The command line: Hydra composes a config, mistakes become one line."""
