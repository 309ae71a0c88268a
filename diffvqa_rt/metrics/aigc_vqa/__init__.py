"""AIGC-VQA, a metric of generated videos and the prompts that they were made from."""
