"""Experiments: specs, sweeps, results, ranking, plots, validation, the `explore` command."""

__version__ = "0.1.0"
