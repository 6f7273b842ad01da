"""What goes wrong in fine-tuning on purpose."""


class TrainingError(Exception):
    """The settings, the data or the state of a run do not allow to go on. The message has a line
    for each fault and may be shown as it is."""
