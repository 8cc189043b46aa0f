"""How networks whose convolutions are roots or logs learn: `python -m examples.curves --help`."""
