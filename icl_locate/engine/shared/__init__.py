"""The shared engine: every run goes up the layers in one pass, each with the rows that differ."""
