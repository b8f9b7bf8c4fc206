"""The command line of recipes."""
