"""What can be wrong with a store, each said in one sentence to a person."""


class StoreError(Exception):
    """A store cannot be written or read; the message says what, and what to do."""


class NotAStore(StoreError):
    """The path holds no store, or the store holds no such split."""


class FormatMismatch(StoreError):
    """The store is of another format, or its arrays are laid out in another way."""


class IdentityMismatch(StoreError):
    """The store was made of another dataset or by another teacher."""


class IncompleteStore(StoreError):
    """Chunks that are needed have not been written yet."""


class CorruptStore(StoreError):
    """Chunk files are cut short, missing or changed."""


class InUse(StoreError):
    """Another process writes there."""
