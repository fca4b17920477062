//! Block devices: malloc, null, uring, error, delay, and the replica device.
