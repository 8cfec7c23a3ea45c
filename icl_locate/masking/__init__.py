"""Hide the context from each layer on: the sweep, and what is read off it (Sia et al. 2024)."""
