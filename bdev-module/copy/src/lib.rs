//! The remote-copy engine as state machines without I/O.
