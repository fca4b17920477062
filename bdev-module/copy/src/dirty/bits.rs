//! A set of small numbers, as bits.

/// The set; counts its members.
#[derive(Clone, Debug)]
pub(super) struct Bits {
    words: Vec<u64>,
    len: u64,
    count: u64,
}

impl Bits {
    /// An empty set of numbers below `len`.
    pub fn new(len: u64) -> Bits {
        Bits { words: vec![0; len.div_ceil(64) as usize], len, count: 0 }
    }

    pub fn get(&self, at: u64) -> bool {
        self.words.get((at / 64) as usize).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// Whether it was not in the set before.
    pub fn set(&mut self, at: u64) -> bool {
        debug_assert!(at < self.len);
        let Some(word) = self.words.get_mut((at / 64) as usize) else { return false };
        let is_new = *word >> (at % 64) & 1 == 0;
        *word |= 1 << (at % 64);
        self.count += u64::from(is_new);
        is_new
    }

    pub fn unset(&mut self, at: u64) {
        if self.get(at) {
            self.words[(at / 64) as usize] &= !(1 << (at % 64));
            self.count -= 1;
        }
    }

    /// Makes room for more numbers.
    pub fn grow(&mut self, len: u64) {
        self.len = self.len.max(len);
        self.words.resize(self.len.div_ceil(64) as usize, 0);
    }

    pub fn set_all(&mut self) {
        for (nth, word) in self.words.iter_mut().enumerate() {
            let left = self.len - nth as u64 * 64;
            *word = if left >= 64 { u64::MAX } else { (1 << left) - 1 };
        }
        self.count = self.len;
    }

    /// Adds all of another set of the same size but for what is in a third.
    pub fn join_without(&mut self, other: &Bits, without: &Bits) {
        for ((word, other), without) in self.words.iter_mut().zip(&other.words).zip(&without.words) {
            *word |= other & !without;
        }
        self.count = self.words.iter().map(|word| u64::from(word.count_ones())).sum();
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// The members at or above `from`, in order. Looks at 64 at a time.
    pub fn iter_from(&self, from: u64) -> impl Iterator<Item = u64> + '_ {
        let first = (from / 64) as usize;
        let words = self.words.iter().enumerate().skip(first);
        words.flat_map(move |(nth, word)| {
            let mut word = if nth == first { word & (u64::MAX << (from % 64)) } else { *word };
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros();
                (bit < 64).then(|| {
                    word &= word - 1;
                    nth as u64 * 64 + u64::from(bit)
                })
            })
        })
    }
}
