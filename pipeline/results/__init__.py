"""What an evaluation writes and a report reads."""
