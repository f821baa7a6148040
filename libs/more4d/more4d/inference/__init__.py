"""From a photo and a prompt to a scene."""
