use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn arena(bytes: usize) -> Arena {
    Arena::new(ArenaConfig::new(bytes)).unwrap()
}

#[test]
fn a_fresh_arena_is_zero_aligned_and_says_whether_it_has_huge_pages() {
    let arena = arena(4 << 20);
    assert_eq!(arena.notice().is_none(), arena.stats().huge_pages);
    if let Some(notice) = arena.notice() {
        assert!(notice.contains("sysctl vm.nr_hugepages=$(($(cat /proc/sys/vm/nr_hugepages) + 2))"), "{notice}");
    }
    let whole = arena.alloc(4 << 20).unwrap();
    assert_eq!((whole.len(), whole.capacity()), (4 << 20, 4 << 20));
    assert!(whole.iter().all(|&b| b == 0));
    assert_eq!(whole.as_ptr() as usize % HUGE_PAGE_BYTES, 0);
    assert!(arena.alloc(1).is_none());
    assert_eq!(arena.stats().refused, 1);
    drop(whole);
    for bytes in [1, 511, 512, 513, 4095, 4096, 5000, 65536, 70000, 1 << 20] {
        let buf = arena.alloc(bytes).unwrap();
        assert_eq!((buf.len(), buf.capacity()), (bytes, bytes.next_power_of_two().max(512)));
        assert_eq!(buf.as_ptr() as usize % buf.capacity(), 0, "alignment of {bytes} bytes");
    }
    assert!(arena.alloc((4 << 20) + 1).is_none() && arena.alloc(usize::MAX).is_none());
}

#[test]
fn a_size_that_cannot_be_is_refused_with_what_to_give() {
    for (config, part) in [
        (ArenaConfig::new(0), "1 and"),
        (ArenaConfig::new(usize::MAX), "1 and"),
        (ArenaConfig { min_block_bytes: 700, ..ArenaConfig::new(1) }, "512, 1024"),
        (ArenaConfig { min_block_bytes: 8192, ..ArenaConfig::new(1) }, "512, 1024"),
    ] {
        let error = Arena::new(config).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(arena(1).stats().total_bytes, HUGE_PAGE_BYTES);
    let populated = Arena::new(ArenaConfig { populate: true, min_block_bytes: 4096, ..ArenaConfig::new(1) }).unwrap();
    assert_eq!(populated.alloc(1).unwrap().capacity(), 4096);
}

#[derive(Clone, Debug)]
enum Step {
    Alloc {
        bytes: usize,
    },
    /// Drop one of the held, here or on another thread.
    Drop {
        which: usize,
        elsewhere: bool,
    },
    Freeze {
        which: usize,
    },
    Clone {
        which: usize,
    },
    Slice {
        which: usize,
        from: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop_oneof![1usize..5000, 1usize..300_000].prop_map(|bytes| Step::Alloc { bytes }),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(which, elsewhere)| Step::Drop { which, elsewhere }),
        2 => any::<usize>().prop_map(|which| Step::Freeze { which }),
        1 => any::<usize>().prop_map(|which| Step::Clone { which }),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(which, from)| Step::Slice { which, from }),
    ]
}

enum Held {
    Buf(Buf, u8),
    Shared(Shared, u8),
}

impl Held {
    fn check(&self) {
        let (bytes, mark): (&[u8], _) = match self {
            Held::Buf(buf, mark) => (buf, mark),
            Held::Shared(shared, mark) => (shared, mark),
        };
        assert!(bytes.iter().all(|b| b == mark), "somebody else wrote into a held buffer");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Each buffer is filled with a mark of its own: two that overlap would show it.
    #[test]
    fn held_buffers_never_overlap_and_all_memory_comes_back(steps in prop::collection::vec(step(), 1..120)) {
        let arena = arena(2 << 20);
        let elsewhere = Elsewhere::new();
        let (mut held, mut mark) = (Vec::new(), 0u8);
        for step in steps {
            match step {
                Step::Alloc { bytes } => {
                    let before = arena.stats();
                    if let Some(mut buf) = arena.alloc(bytes) {
                        mark = mark.wrapping_add(1);
                        prop_assert_eq!(arena.stats().used_bytes, before.used_bytes + buf.capacity());
                        buf.set_len(buf.capacity());
                        buf.fill(mark);
                        held.push(Held::Buf(buf, mark));
                    } else {
                        prop_assert!(before.used_bytes > 0, "{} bytes refused by an empty arena", bytes);
                    }
                }
                _ if held.is_empty() => {}
                Step::Drop { which, elsewhere: false } => drop(held.swap_remove(which % held.len())),
                Step::Drop { which, elsewhere: true } => elsewhere.drop_there(held.swap_remove(which % held.len())),
                Step::Freeze { which } => match held.swap_remove(which % held.len()) {
                    Held::Buf(buf, mark) => held.push(Held::Shared(buf.freeze(), mark)),
                    shared => held.push(shared),
                },
                Step::Clone { which } => if let Held::Shared(shared, mark) = &held[which % held.len()] {
                    let clone = Held::Shared(shared.clone(), *mark);
                    held.push(clone);
                },
                Step::Slice { which, from } => if let Held::Shared(shared, mark) = &held[which % held.len()] {
                    let slice = Held::Shared(shared.slice(from % (shared.len() + 1)..), *mark);
                    held.push(slice);
                },
            }
            held.iter().for_each(Held::check);
        }
        held.drain(..).for_each(drop);
        elsewhere.end();
        prop_assert_eq!(arena.stats().used_bytes, 0);
        prop_assert!(arena.alloc(2 << 20).is_some(), "free blocks were joined again");
    }

    #[test]
    fn the_free_lists_agree_with_a_model_of_single_blocks(
        blocks in 1u32..200,
        steps in prop::collection::vec((any::<bool>(), 0u32..8, any::<usize>()), 1..200),
    ) {
        let mut buddy = Buddy::new(blocks);
        let mut model = vec![false; blocks as usize];
        let mut held: Vec<(u32, u32)> = Vec::new();
        for (alloc, order, which) in steps {
            if alloc {
                let fits = (0..blocks >> order).any(|i| {
                    let start = (i << order) as usize;
                    !model[start..start + (1 << order)].contains(&true)
                });
                match buddy.alloc(order) {
                    Some(index) => {
                        prop_assert_eq!(index % (1 << order), 0);
                        for block in &mut model[index as usize..][..1 << order] {
                            prop_assert!(!*block, "overlap");
                            *block = true;
                        }
                        held.push((index, order));
                    }
                    // Eager joining leaves no aligned free range that is not one block, save beyond the largest order.
                    None => prop_assert!(!fits || order > blocks.ilog2()),
                }
            } else if !held.is_empty() {
                let (index, order) = held.swap_remove(which % held.len());
                model[index as usize..][..1 << order].fill(false);
                buddy.free(index);
            }
            prop_assert_eq!(buddy.free_blocks() as usize, model.iter().filter(|&&used| !used).count());
        }
        for (index, _) in held {
            buddy.free(index);
        }
        prop_assert_eq!(buddy.alloc(blocks.ilog2()).is_some(), true);
    }
}

/// A thread that drops what it is given.
struct Elsewhere {
    thread: std::thread::JoinHandle<()>,
    sender: std::sync::mpsc::Sender<Held>,
    dropped: std::sync::mpsc::Receiver<()>,
}

impl Elsewhere {
    fn new() -> Elsewhere {
        let (sender, receiver) = std::sync::mpsc::channel::<Held>();
        let (done, dropped) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            for held in receiver {
                held.check();
                drop(held);
                done.send(()).unwrap();
            }
        });
        Elsewhere { thread, sender, dropped }
    }

    /// Returns when it is dropped, so that the arena's figures hold still meanwhile.
    fn drop_there(&self, held: Held) {
        self.sender.send(held).unwrap();
        self.dropped.recv().unwrap();
    }

    fn end(self) {
        drop(self.sender);
        self.thread.join().unwrap();
    }
}

#[test]
fn every_block_there_is_can_wait_in_the_return_queue_at_once() {
    let arena = arena(2 << 20);
    let held: Vec<Shared> = std::iter::from_fn(|| arena.alloc(512)).map(Buf::freeze).collect();
    assert_eq!(held.len(), 4096);
    assert!(arena.alloc(1).is_none());
    std::thread::spawn(move || drop(held)).join().unwrap();
    // All come back through the queue, and one allocation of everything needs them all joined.
    assert!(arena.alloc(2 << 20).is_some());
}

#[test]
fn only_a_foreign_threads_drop_goes_through_the_return_queue() {
    let arena = arena(2 << 20);
    let (here, there) = (arena.alloc(512).unwrap(), arena.alloc(512).unwrap());
    drop(here);
    assert_eq!(arena.inner.returned.len(), 0);
    std::thread::spawn(move || drop(there)).join().unwrap();
    assert_eq!(arena.inner.returned.len(), 1);
    assert_eq!(arena.stats().used_bytes, 0);
}

#[test]
fn buffers_outlive_their_arena_and_its_thread() {
    let mut buf = std::thread::spawn(|| {
        let arena = arena(2 << 20);
        let mut buf = arena.alloc(4096).unwrap();
        buf.fill(3);
        buf
    })
    .join()
    .unwrap();
    assert!(buf.iter().all(|&b| b == 3));
    buf.fill(4);
    let shared = buf.freeze();
    let other = shared.slice(1..3);
    drop(shared);
    assert_eq!(&*other, [4, 4]);
    // The thread is gone, so this goes through the return queue that nobody will empty, and unmaps.
    drop(other);
}

#[test]
fn references_counted_on_many_threads_return_the_block_exactly_once() {
    let arena = arena(2 << 20);
    for round in 0..200 {
        let mut buf = arena.alloc(4096).unwrap();
        buf.fill(round as u8);
        let shared = buf.freeze();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let mine = shared.clone();
                std::thread::spawn(move || {
                    let clones: VecDeque<Shared> = (0..10).map(|i| mine.slice(i..4096 - i)).collect();
                    drop(mine);
                    clones.into_iter().all(|clone| clone.iter().all(|&b| b == round as u8))
                })
            })
            .collect();
        drop(shared);
        assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
        assert_eq!(arena.stats().used_bytes, 0);
    }
}

#[test]
fn only_the_last_reference_becomes_writable_again() {
    let arena = arena(2 << 20);
    let mut buf = arena.alloc(100).unwrap();
    buf.copy_from_slice(&[9; 100]);
    let shared = buf.freeze();
    let view = shared.slice(10..20);
    let shared = shared.try_into_buf().unwrap_err();
    drop(shared);
    let mut part = view.try_into_buf().unwrap();
    assert_eq!((part.len(), part.capacity()), (10, 10));
    part.fill(1);
    assert!(Shared::from_static(b"constant").try_into_buf().is_err());
}

#[test]
fn heap_and_constant_bytes_are_buffers_too() {
    let mut buf = Buf::from_vec(b"abcdef".to_vec());
    buf[0] = b'A';
    buf.truncate(5);
    buf.truncate(50);
    let shared = buf.freeze();
    assert_eq!(&*shared, b"Abcde");
    assert_eq!(&*shared.slice(1..=2), b"bc");
    assert_eq!(&*shared.slice(..).slice(5..), b"");
    assert_eq!(&*Shared::from_static(b"xyz").slice(1..), b"yz");
    assert!(Buf::from_vec(Vec::new()).freeze().is_empty());
    assert_eq!(&*Shared::from(vec![1, 2]), [1, 2]);
}

#[test]
#[should_panic(expected = "slice 3..7 of 6 bytes")]
fn a_slice_beyond_the_view_panics() {
    let _ = Buf::from_vec(vec![0; 6]).freeze().slice(3..7);
}

#[test]
#[should_panic(expected = "above the buffer's capacity")]
fn a_length_beyond_the_capacity_panics() {
    arena(1).alloc(100).unwrap().set_len(513);
}
