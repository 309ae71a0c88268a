"""What each metric is, without torch: its configuration, its input, its engines, its chain, its result."""
