"""Stage 1: a chat model out of the pretrained one."""
