//! entrybook-projections
