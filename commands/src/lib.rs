//! entrybook-commands
