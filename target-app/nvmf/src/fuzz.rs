//! Entry points for fuzzers and "any bytes never panic" tests.
