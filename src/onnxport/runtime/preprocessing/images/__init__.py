"""Images as the arrays that a graph takes, with numpy and pillow."""
