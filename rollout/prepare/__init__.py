"""Before a run: data of any form -> an input file of chats. `python -m rollout prepare`."""
