"""Explanations of a wrong gradient, a file each kind, each tested on the evidence."""
