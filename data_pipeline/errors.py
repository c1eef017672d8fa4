"""The one error a user of a dataset meets; its message says what is wrong and what to change."""


class DataError(ValueError):
    """A dataset or a source of images that cannot be used as it is."""
