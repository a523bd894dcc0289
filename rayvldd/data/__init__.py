"""Image-caption datasets: their formats, the drawn scenes, and the arrays that are made once and then shared."""
