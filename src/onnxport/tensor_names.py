"""Names of a graph's inputs and outputs, as transformers.js and optimum read them.

past_key_values.0.key      a decoder's cache of layer 0, as it was before the call (input)
present.0.key              the same after the call (output)
past_key_values.0.encoder.key, present.0.encoder.key    cross-attention of an encoder-decoder
past_conv_0, present_conv_0                             other states, by the name that the model gives them
"""

from __future__ import annotations

PAST = "past_"  # every state before a call begins so
PAST_KEY_VALUES, PRESENT = "past_key_values.", "present."
PAST_LENGTH = "past_sequence_length"  # axis of a cache before the call
SEQUENCE_LENGTH = "sequence_length"  # axis of the tokens of a call

INPUT_IDS, ATTENTION_MASK, POSITION_IDS = "input_ids", "attention_mask", "position_ids"
LOGITS = "logits"

# Input of a decoder, an int64 without axes: 0 gives the logits of all tokens, N those of the last N of each row.
NUM_LOGITS_TO_KEEP = "num_logits_to_keep"
NUM_LOGITS = "num_logits"  # axis of the logits: as many as there are tokens, or as are kept


_SERIES = frozenset({"past_values", "past_observed_mask", "past_time_features"})  # of a time series, no states


def is_past(name: str) -> bool:
    """Whether an input is a state from before the call.

    >>> is_past("past_key_values.0.key"), is_past("input_ids"), is_past("past_values")
    (True, False, False)
    """
    return name.startswith(PAST) and name not in _SERIES


def present_name(past: str) -> str:
    """The output that becomes the input `past` of the next call.

    >>> present_name("past_key_values.0.key"), present_name("past_conv_0")
    ('present.0.key', 'present_conv_0')
    """
    if past.startswith(PAST_KEY_VALUES):
        return past.replace(PAST_KEY_VALUES, PRESENT, 1)
    return past.replace(PAST, "present_", 1)


def past_name(present: str) -> str:
    """The input that takes the output `present` of the call before; any other name as it is.

    >>> past_name("present.0.encoder.key"), past_name("logits")
    ('past_key_values.0.encoder.key', 'logits')
    """
    return PAST_KEY_VALUES + present.removeprefix(PRESENT) if present.startswith(PRESENT) else present
