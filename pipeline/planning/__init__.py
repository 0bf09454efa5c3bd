"""What both stages will take, before anything is spent."""
