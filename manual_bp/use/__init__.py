"""Use a trained network: read pictures for it, and write it for other programs."""
