"""Recipes that learn what the tasks ship."""
