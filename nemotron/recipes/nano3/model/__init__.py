"""The model and its training. Importing these modules imports torch; the stages do so only when they run."""
