"""Three-piece chess endgames in plain numpy: rules, exact tables, reference players, tokens, games in parallel."""
