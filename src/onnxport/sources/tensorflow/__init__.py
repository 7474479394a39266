"""TensorFlow models as sources."""
