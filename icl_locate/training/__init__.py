"""How the embedded model was made: its training run, and the measurements on its card."""
