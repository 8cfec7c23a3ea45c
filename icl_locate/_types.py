"""The vocabulary that every module shares: segments of a prompt, parts of an example, axes."""

from enum import IntEnum


class Segment(IntEnum):
    """What a token of a prompt belongs to. Every token has exactly one segment.

    ``GENERATED`` marks what follows the prompt: the model's own tokens while it generates, the
    target's tokens while it is scored. Prompts themselves never hold it.
    """

    PAD = 0
    BOS = 1
    INSTRUCTIONS = 2
    EXAMPLES = 3
    QUERY = 4
    GENERATED = 5


class Part(IntEnum):
    """What a token is within its example or query.

    ``NONE`` is for padding, BOS, instructions and generated tokens; prefixes and separators are
    ``DELIMITER``.
    """

    NONE = 0
    DELIMITER = 1
    SOURCE = 2
    TARGET = 3
