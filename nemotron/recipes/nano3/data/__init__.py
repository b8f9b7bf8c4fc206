"""The data of the recipe: sources, tokenizer, shards, blends and instructions."""
