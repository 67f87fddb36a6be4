//! entrybook-domain
