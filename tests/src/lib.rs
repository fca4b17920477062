//! Process tests of the longrun program.
