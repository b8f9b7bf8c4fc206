"""Many experiments: campaigns, batches and schedules, each run as a process of its own."""
