"""outdo turns any judge into a doer. See README.md for the tour."""

__version__ = "0.1.0"
