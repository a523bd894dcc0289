"""Image-caption datasets: annotation formats, the toy scenes, and cached arrays of pixels and captions."""
