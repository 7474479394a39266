"""Choosing the next token: logits processors, sampling, beam search."""
