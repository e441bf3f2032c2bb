"""The reward audit: where does a reward pay for something other than what is wanted? See docs/audit.md."""
