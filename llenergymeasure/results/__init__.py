"""Results on disk: what they hold, where they lie, how they are put together, compared, reported and verified."""
