"""Files that are whole or not there: their format, results in them, checkpoints."""
