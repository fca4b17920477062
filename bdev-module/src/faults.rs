#![doc = include_str!("../FAULTS.md")]

#[cfg(test)]
mod tests;
