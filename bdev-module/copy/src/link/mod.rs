//! The link between two systems.
