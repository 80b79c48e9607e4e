"""Every error that userbert raises on purpose.

```
UserBertError
├── InputError          what the user gave cannot be used; the command line exits with 2
│   ├── SchemaError     schema.yaml says something that cannot be
│   ├── SourceError     a raw log cannot be read as the schema says
│   ├── DataError       a prepared data folder is damaged, or is not the one that was meant
│   ├── ModelError      a model folder is damaged, or does not fit the data
│   └── LabelError      labels that cannot be used, or that leak
└── ClusterError        a cluster gave up on what it was asked to do
```

A message locates and advises: what was read, where, what was expected and found, and what to do.
Anything else that escapes is our fault; the command line exits with 1.
"""


class UserBertError(Exception):
    """Base of all errors that userbert raises on purpose."""


class InputError(UserBertError):
    """What the user gave cannot be used; the message says what to change."""


class SchemaError(InputError):
    """The schema names something that cannot be."""


class SourceError(InputError):
    """A raw log cannot be read as the schema says."""


class DataError(InputError):
    """A prepared data folder is damaged, or is not the one that was meant."""


class ModelError(InputError):
    """A model folder is damaged, or does not fit the data."""


class LabelError(InputError):
    """Labels that cannot be used, or that leak the future."""


class ClusterError(UserBertError):
    """A cluster gave up on what it was asked to do."""
