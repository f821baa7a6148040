"""The result page: every scene, the data, the curves and the figures of one workspace in a single offline file."""
