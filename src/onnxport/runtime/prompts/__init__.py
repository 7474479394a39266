"""From text, chats, sounds and images to the prompt of a model."""
