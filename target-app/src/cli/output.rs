//! What the program says: answers on standard output, all else on standard error. The one place that writes to either,
//! because `println!` and `eprintln!` panic when the reader has left (`| head`).

use std::fmt;
use std::io::{self, ErrorKind, Write};

/// Whether somebody still reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// It was all taken.
    Reads,
    /// The reader has seen enough: nothing more needs to be said, and nothing is wrong.
    Gone,
}

/// Writes an answer to standard output, as it is.
///
/// # Errors
///
/// When standard output takes it no longer, for another reason than that its reader has left (a full disk).
pub fn print(text: &str) -> io::Result<Reader> {
    print_to(&mut io::stdout().lock(), text)
}

fn print_to(out: &mut impl Write, text: &str) -> io::Result<Reader> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::Reads),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error),
    }
}

/// Writes a line to standard error. Where that can't be written to there is nobody to tell.
pub fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fails(ErrorKind);

    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_who_leaves_is_no_error_and_a_full_disk_is_one() {
        assert_eq!(print_to(&mut Vec::new(), "text").unwrap(), Reader::Reads);
        assert_eq!(print_to(&mut Fails(ErrorKind::BrokenPipe), "text").unwrap(), Reader::Gone);
        assert_eq!(print_to(&mut Fails(ErrorKind::StorageFull), "text").unwrap_err().kind(), ErrorKind::StorageFull);
    }
}
