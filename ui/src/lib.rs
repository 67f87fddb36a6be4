//! entrybook-ui
