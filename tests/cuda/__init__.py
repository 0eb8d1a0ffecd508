"""What only a GPU can show: `python -m pytest -m cuda`; its figures: `python -m tests.cuda`."""
