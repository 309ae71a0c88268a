"""DiffV²IQA: images, and videos frame by frame. Nothing here imports torch."""
