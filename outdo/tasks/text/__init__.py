"""What text tasks share: prompts through the chat template, replies as text, tools between the turns."""
