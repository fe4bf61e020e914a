"""All that starts, tunes and ends a process. It knows no config."""
