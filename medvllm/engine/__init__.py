"""The engine: paged KV cache, scheduler with continuous batching, model runner, and the loop that joins them."""
