"""The folder: its manifest, hashes, model card, and the files beside the graphs."""
