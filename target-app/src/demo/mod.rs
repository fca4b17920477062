//! demo
pub mod clock;
pub mod connection;
pub mod host;
pub mod relay;
pub mod workload;
