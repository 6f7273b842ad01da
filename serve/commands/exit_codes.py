"""What the command's exit codes mean."""

EXIT_OK = 0
EXIT_FAILED = 1
"""A cluster, a machine or a disk did not do what was asked."""
EXIT_BAD_INPUT = 2
"""Bad usage, or some input failed; the other files are finished."""
EXIT_WARNED = 3
"""All input was transcribed, but the audio of some could not be read whole: warnings say where."""
EXIT_ROLLED_BACK = 4
"""An update failed, and the settings that worked last are back."""
EXIT_INTERRUPTED = 130
