"""How arguments and fields are checked, in words that name them, and how values are shown."""
