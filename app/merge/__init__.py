"""The Merge tab without its layout: what the fields mean, what is said about them, jobs and their results."""
