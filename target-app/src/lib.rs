//! Longrun: an NVMe-oF storage target with write-ordered asynchronous remote copy.

pub mod cli;
pub mod control;
pub mod demo;
pub mod identity;
pub mod metadata;
pub mod reactor;
pub mod serve;
