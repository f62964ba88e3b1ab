"""What a terminal shows of a run under way, and what came of it."""
