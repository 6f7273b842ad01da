"""Words from short windows beside words from whole ones, on clips of 0.5 to 20 s."""
