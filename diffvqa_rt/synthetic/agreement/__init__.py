"""Agreement of scores with the labels of a synthetic set."""
