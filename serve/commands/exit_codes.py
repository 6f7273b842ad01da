"""What the command's exit codes mean."""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
"""Bad usage, or some input that failed; the other files are finished."""
EXIT_INTERRUPTED = 130
