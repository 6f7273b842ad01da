"""What fine-tuning brings, and what it costs elsewhere."""
