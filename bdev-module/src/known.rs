//! What a core knows of the metadata: all that there was at the start, and what it has written since.
//!
//! A group's keys are written by the core that it is at home on, and by that one alone. A group that is deleted and made again
//! may be at home on another: the control plane then brings that one what the others have written ([`Known::take_news`],
//! [`Known::learn`]). *A group was made again on another core, which knew its streams' epochs from the start of the process
//! only, and began one for the second time.*

use std::collections::BTreeMap;

/// Keys and values.
pub(crate) struct Known {
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    value: Vec<u8>,
    /// Written here, and the other cores have not heard of it.
    is_news: bool,
}

impl Known {
    pub(crate) fn at_start(entries: BTreeMap<String, Vec<u8>>) -> Known {
        let entries = entries.into_iter().map(|(key, value)| (key, Entry { value, is_news: false }));
        Known { entries: entries.collect() }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&[u8]> {
        self.entries.get(key).map(|entry| entry.value.as_slice())
    }

    /// This core writes it.
    pub(crate) fn write(&mut self, key: &str, value: &[u8]) {
        match self.entries.get_mut(key) {
            Some(known) => {
                value.clone_into(&mut known.value);
                known.is_news = true;
            }
            None => _ = self.entries.insert(key.to_owned(), Entry { value: value.to_owned(), is_news: true }),
        }
    }

    /// What was written here since this was last asked.
    pub(crate) fn take_news(&mut self) -> Vec<(String, Vec<u8>)> {
        let news = self.entries.iter_mut().filter(|(_, entry)| entry.is_news);
        news.map(|(key, entry)| {
            entry.is_news = false;
            (key.clone(), entry.value.clone())
        })
        .collect()
    }

    /// What another core has written.
    pub(crate) fn learn(&mut self, news: &[(String, Vec<u8>)]) {
        for (key, value) in news {
            self.entries.insert(key.clone(), Entry { value: value.clone(), is_news: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_hears_what_others_have_written_once_and_the_last_who_wrote_is_right() {
        let start = || Known::at_start(BTreeMap::from([("a".to_owned(), vec![1]), ("b".to_owned(), vec![1])]));
        let (mut first, mut second) = (start(), start());
        first.write("a", &[2]);
        first.write("c", &[2]);
        let news = first.take_news();
        assert_eq!(news, [("a".to_owned(), vec![2]), ("c".to_owned(), vec![2])]);
        second.learn(&news);
        // The key goes on there: what the first one says later is of others.
        second.write("a", &[3]);
        first.write("c", &[]);
        second.learn(&first.take_news());
        assert_eq!(
            [second.get("a"), second.get("b"), second.get("c")],
            [Some([3].as_slice()), Some([1].as_slice()), Some([].as_slice())]
        );
        first.learn(&second.take_news());
        assert_eq!(first.get("a"), Some([3].as_slice()));
        assert_eq!((first.take_news(), second.take_news()), (vec![], vec![]), "what was heard is not said again");
    }
}
