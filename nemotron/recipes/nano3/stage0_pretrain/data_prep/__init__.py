"""Text files to Megatron shards."""
