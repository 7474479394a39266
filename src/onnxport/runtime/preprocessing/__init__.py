"""Texts, images and sounds as the arrays that a graph takes: from a folder's own files, without a framework."""
