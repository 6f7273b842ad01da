"""One command that settles on a GPU, in ten minutes, what can only be settled there."""
