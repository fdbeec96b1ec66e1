"""Experiment specs that come with the project, found by name."""
