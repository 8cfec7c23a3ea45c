"""Files that are whole or not there: their format, results in them, trainings to go on with."""
