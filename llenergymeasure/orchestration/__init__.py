"""Running an experiment: state on disk, journal, warm-up, traffic, processes."""
