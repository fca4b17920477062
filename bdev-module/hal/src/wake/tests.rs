#[cfg(not(loom))]
mod plain {
    use std::time::Duration;

    use super::super::*;
    use crate::uring::{Uring, UringConfig};

    #[test]
    fn only_the_first_of_many_producers_signals_a_sleeper() {
        use std::io::Read;
        let (sleeper, waker) = pair().unwrap();
        let _announced = sleeper.announce();
        for _ in 0..10 {
            waker.wake();
        }
        let mut count = [0; 8];
        std::fs::File::from(sleeper.event().as_fd().try_clone_to_owned().unwrap()).read_exact(&mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
    }

    #[test]
    fn a_producer_makes_no_system_call_while_nobody_sleeps_and_one_per_sleep() {
        let (sleeper, waker) = pair().unwrap();
        let mut uring = Uring::new(UringConfig::with_entries(8), Some(&sleeper)).unwrap();
        let mut turn = |wait| uring.submit_and_reap(wait, &mut Vec::new()).unwrap();
        for _ in 0..10 {
            waker.wake();
        }
        assert!(!turn(Some(Duration::from_millis(5))).woken);
        let announced = sleeper.announce();
        for _ in 0..10 {
            waker.wake();
        }
        assert!(turn(Some(Duration::from_secs(20))).woken);
        drop(announced);
        waker.wake();
        assert!(!turn(Some(Duration::from_millis(5))).woken, "the ten wake-ups were one");
        // A wake-up between announcement and sleep is kept for the sleep.
        let announced = sleeper.announce();
        waker.clone().wake();
        assert!(turn(Some(Duration::from_secs(20))).woken);
        drop(announced);
    }
}

#[cfg(loom)]
mod model {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicBool, Ordering};

    use super::super::Announcement;
    use crate::ring::ring;

    /// The sleep in the kernel is modelled by its outcome: if the sleeper found its ring empty and was not signalled, it
    /// would sleep on with an item in the ring.
    #[test]
    fn loom_no_push_is_slept_through() {
        loom::model(|| {
            let announcement = Arc::new(Announcement::new());
            let signalled = Arc::new(AtomicBool::new(false));
            let (mut tx, mut rx) = ring::<u32>(2);
            let producer = {
                let (announcement, signalled) = (announcement.clone(), signalled.clone());
                loom::thread::spawn(move || {
                    tx.push(1).unwrap();
                    if announcement.must_wake() {
                        signalled.store(true, Ordering::Relaxed);
                    }
                })
            };
            announcement.announce();
            let sleeps = rx.is_empty();
            producer.join().unwrap();
            assert!(!sleeps || signalled.load(Ordering::Relaxed), "asleep with an item in the ring");
        });
    }

    #[test]
    fn loom_two_producers_wake_a_sleeper_at_least_once_and_each_push_is_seen() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(2);
        builder.check(|| {
            let announcement = Arc::new(Announcement::new());
            let signalled = Arc::new(AtomicBool::new(false));
            let (ends, mut rings): (Vec<_>, Vec<_>) = (0..2).map(|_| ring::<u32>(1)).unzip();
            let producers: Vec<_> = ends
                .into_iter()
                .map(|mut tx| {
                    let (announcement, signalled) = (announcement.clone(), signalled.clone());
                    loom::thread::spawn(move || {
                        tx.push(1).unwrap();
                        if announcement.must_wake() {
                            signalled.store(true, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            announcement.announce();
            let sleeps = rings.iter_mut().all(|rx| rx.is_empty());
            producers.into_iter().for_each(|producer| producer.join().unwrap());
            assert!(!sleeps || signalled.load(Ordering::Relaxed), "asleep with an item in a ring");
            announcement.withdraw();
            assert!(rings.iter_mut().all(|rx| rx.pop() == Some(1)));
        });
    }
}
