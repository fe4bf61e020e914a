"""A grid of options with several seeds: its runs, their training, the table of results."""
