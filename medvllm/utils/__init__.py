"""Helpers of one subject each."""
