"""A series of images: files and bytes to instances, instances to one volume, and back to its frames."""
