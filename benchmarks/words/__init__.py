"""How many words systems get right, in conditions that people have, judged on unseen speech."""
