"""The parts of the study page, from top to bottom."""
