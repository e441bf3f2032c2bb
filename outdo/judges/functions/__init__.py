"""Reward functions as their users wrote them for other tools: how they are called, and what keeps a bad one harmless."""
