"""What every experiment shares: its setting, its recipe, its intervals, and its result."""
