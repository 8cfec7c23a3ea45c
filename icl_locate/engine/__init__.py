"""Running a model under a mask: generation, scoring of targets, and whole grids of cells."""
