"""Before a run: data in any form -> an input file of chats. `python -m rollout prepare`."""
