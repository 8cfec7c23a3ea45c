"""What every experiment shares: its recipe, its intervals, the location of a layer."""
