"""What this machine is: its GPUs, processor, memory and software."""
