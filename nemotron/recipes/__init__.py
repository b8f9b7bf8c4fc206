"""Training recipes built with `nemotron.kit`."""
