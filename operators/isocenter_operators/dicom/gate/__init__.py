"""What an application accepts, and what the images in front of it are."""
