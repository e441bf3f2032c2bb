"""Imitate or reinforce? Rules on what a few probes measured, predictions, and the record of how these did. See docs/advise.md."""
