"""Tables of prompts: read as streams, whatever their format."""
