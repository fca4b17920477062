//! Process tests of the longrun program: real processes, real sockets, real SIGKILL.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`program`] | finds the program, after building it |
//! | [`process`] | a `longrun serve` in a directory of its own, which can be killed and started again there |
//! | [`load`] | a host that works, logs what it does, and reads volumes back |
//! | [`paths`] | a host that reaches the same volumes at two systems |
//! | [`network`] | a test in a network of its own
//! | [`tracer`] | counts the system calls of single threads |
//! | [`sites`] | two systems with a bad network between them, a group, and the verdict on a takeover |
//!
//! Time-outs are generous and nothing is asserted about latency: the tests also hold on a machine that is busy with
//! something else.

pub mod load;
pub mod network;
pub mod paths;
pub mod process;
pub mod program;
pub mod sites;
pub mod tracer;
