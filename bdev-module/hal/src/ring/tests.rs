use super::*;

#[cfg(not(loom))]
mod plain {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push,
        PushBatch(usize),
        Pop,
        PopBatch(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Push),
            (0usize..20).prop_map(Step::PushBatch),
            Just(Step::Pop),
            (0usize..20).prop_map(Step::PopBatch),
        ]
    }

    proptest! {
        #[test]
        fn a_ring_is_a_queue_with_a_bound(capacity in 1usize..12, steps in prop::collection::vec(step(), 1..200)) {
            let (mut tx, mut rx) = ring::<Arc<u64>>(capacity);
            let capacity = capacity.next_power_of_two();
            let (mut model, mut next) = (VecDeque::new(), 0u64);
            let witness = Arc::new(0);
            let mut held = Vec::new();
            for step in steps {
                match step {
                    Step::Push => {
                        let item = Arc::new(next);
                        let accepted = tx.push(item.clone()).is_ok();
                        prop_assert_eq!(accepted, model.len() < capacity);
                        if accepted {
                            model.push_back(next);
                            held.push(item);
                        }
                        next += 1;
                    }
                    Step::PushBatch(count) => {
                        let mut items: VecDeque<_> = (next..next + count as u64).map(Arc::new).collect();
                        let fits = count.min(capacity - model.len());
                        prop_assert_eq!(tx.push_batch(&mut items), fits);
                        prop_assert_eq!(items.len(), count - fits);
                        model.extend(next..next + fits as u64);
                        next += count as u64;
                    }
                    Step::Pop => prop_assert_eq!(rx.pop().map(|item| *item), model.pop_front()),
                    Step::PopBatch(count) => {
                        let mut out = vec![witness.clone()];
                        let taken = rx.pop_batch(&mut out, count);
                        prop_assert_eq!(taken, count.min(model.len()));
                        let expected: Vec<u64> = model.drain(..taken).collect();
                        prop_assert_eq!(out[1..].iter().map(|item| **item).collect::<Vec<_>>(), expected);
                    }
                }
                prop_assert_eq!(rx.is_empty(), model.is_empty());
                prop_assert_eq!(tx.free(), capacity - model.len());
            }
            drop((tx, rx));
            prop_assert!(held.iter().all(|item| Arc::strong_count(item) == 1), "each item dropped exactly once");
        }
    }

    #[test]
    fn cursors_that_wrap_around_lose_nothing() {
        let (mut tx, mut rx) = ring::<usize>(4);
        // As after 2^64 - 2 items.
        let start = usize::MAX - 1;
        tx.core.head.store(start, Ordering::Relaxed);
        tx.core.tail.store(start, Ordering::Relaxed);
        (tx.tail, tx.head_seen, rx.head, rx.tail_seen) = (start, start, start, start);
        for i in 0..10 {
            assert_eq!(tx.push(i), Ok(()));
            assert_eq!(tx.push(i + 100), Ok(()));
            assert_eq!((rx.pop(), rx.pop(), rx.pop()), (Some(i), Some(i + 100), None));
        }
    }

    #[test]
    fn two_threads_pass_items_in_order_and_see_each_other_go() {
        const ITEMS: u64 = 200_000;
        let (mut tx, mut rx) = ring::<Box<u64>>(64);
        let producer = std::thread::spawn(move || {
            let mut batch = VecDeque::new();
            for item in 0..ITEMS {
                batch.push_back(Box::new(item));
                if item % 7 == 0 || item == ITEMS - 1 {
                    while !batch.is_empty() {
                        if tx.push_batch(&mut batch) == 0 {
                            std::thread::yield_now();
                        }
                    }
                }
            }
        });
        let (mut out, mut next) = (Vec::new(), 0);
        while next < ITEMS {
            if rx.pop_batch(&mut out, 16) == 0 {
                std::thread::yield_now();
            }
            for item in out.drain(..) {
                assert_eq!(*item, next);
                next += 1;
            }
        }
        producer.join().unwrap();
        assert!(rx.is_abandoned() && rx.is_empty());
        let (tx, rx) = ring::<u8>(1);
        drop(rx);
        assert!(tx.is_abandoned());
    }
}

#[cfg(loom)]
mod model {
    use super::*;

    #[test]
    fn loom_items_cross_in_order_whatever_the_interleaving() {
        loom::model(|| {
            let (mut tx, mut rx) = ring::<Box<u32>>(2);
            let producer = loom::thread::spawn(move || {
                for item in 0..3 {
                    let mut item = Box::new(item);
                    while let Err(back) = tx.push(item) {
                        item = back;
                        loom::thread::yield_now();
                    }
                }
            });
            let mut next = 0;
            while next < 3 {
                match rx.pop() {
                    Some(item) => {
                        assert_eq!(*item, next);
                        next += 1;
                    }
                    None => loom::thread::yield_now(),
                }
            }
            assert!(rx.is_empty());
            producer.join().unwrap();
        });
    }

    #[test]
    fn loom_batches_cross_and_what_is_left_is_dropped() {
        loom::model(|| {
            let (mut tx, mut rx) = ring::<loom::sync::Arc<u32>>(2);
            let item = loom::sync::Arc::new(7);
            let mine = item.clone();
            let producer = loom::thread::spawn(move || {
                let mut items: std::collections::VecDeque<_> = [item.clone(), item.clone(), item].into();
                tx.push_batch(&mut items)
            });
            let mut out = Vec::new();
            rx.pop_batch(&mut out, 1);
            drop(rx);
            assert_eq!(producer.join().unwrap(), if out.is_empty() { 2 } else { producer_count(&out) });
            drop(out);
            assert_eq!(loom::sync::Arc::strong_count(&mine), 1);
        });
    }

    /// The pop frees a place only after the push filled two, so the push never sees it.
    fn producer_count(out: &[loom::sync::Arc<u32>]) -> usize {
        assert_eq!(out.len(), 1);
        2
    }
}
